"""What one attempt of a Slurm job runs, and where: checked, then written as steps that slurm/common.sh starts.

    python -m alphamed_nemo.launch.slurm experiment=grpo_8b

The job is described by environment variables, which slurm/common.sh sets: those that `Allocation.from_environment`
reads, and the keys of the servers. Prints the folder of the steps. With ALPHAMED_DRY_RUN=1 it writes nothing and prints
what would run, and with ALPHAMED_STAGE what a job of that recipe would do. The split between the two languages: Slurm's
commands exist outside of the container only, and the project's Python inside only.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from alphamed_nemo.cli.preflight import check_built, check_own_code
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.cli.run_start import keep_config, training
from alphamed_nemo.config import Config
from alphamed_nemo.config.file_writing import write_text
from alphamed_nemo.config.files import SECRETS, write_config
from alphamed_nemo.config.private import write_private
from alphamed_nemo.config.run_folder import RunFolder, step_of
from alphamed_nemo.launch.allocation import Allocation, Places, engines, place
from alphamed_nemo.launch.components import SAVE_S, Component, allocator_settings, reward_server, rollout_names, server
from alphamed_nemo.policy.checkpoint.manifest import checkpoints_in
from alphamed_nemo.rollout.vllm_command import vllm_command

log = logging.getLogger(__name__)

ASKING = ("label_difficulty", "evaluate")  # recipes that start a server of their own
# Of trainer and servers, which share a group for refits: NCCL hangs where its ranks have different settings.
NCCL = {"NCCL_NVLS_ENABLE": "0"}  # as Megatron's own launch scripts have it
LAUNCHERS_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class Step:
    """One `srun` of a job.

    Attributes:
        component: the command of each task, its environment, and how it is known to be ready.
        nodes: where.
        tasks_per_node: ranks on each node.
        gpus_per_node: all tasks of a node see all of them.
        cpus_per_task: a share of the node that no other such step gets; 0: all CPUs, together with other steps.
    """

    component: Component
    nodes: tuple[str, ...]
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 0

    @property
    def tasks(self) -> int:
        return len(self.nodes) * self.tasks_per_node

    def log_names(self) -> list[str]:
        """Of the files that its tasks write to."""
        name = self.component.name
        return [f"{name}-{task}.log" for task in range(self.tasks)] if self.tasks > 1 else [f"{name}.log"]

    def srun_options(self, folder: Path) -> list[str]:
        """All of them said here: what a step leaves out it would take from the job's header."""
        log_name = self.component.name + ("-%t" if self.tasks > 1 else "")
        # Two --overlap steps would be handed the same GPUs; --exact shares are disjoint or refused.
        share = ["--exact", f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else ["--overlap"]
        return [
            f"--job-name={self.component.name}",
            f"--nodes={len(self.nodes)}",
            f"--nodelist={','.join(self.nodes)}",
            f"--ntasks={self.tasks}",
            f"--ntasks-per-node={self.tasks_per_node}",
            f"--gpus-per-node={self.gpus_per_node}",
            *share,
            "--mem=0",
            "--cpu-bind=none",
            # Images of CUDA ask for all GPUs, also in a step that Slurm gives none (as slurm/common.sh: exported).
            f"--export=ALL,NVIDIA_VISIBLE_DEVICES={'all' if self.gpus_per_node else 'void'}",
            "--mpi=none",
            "--kill-on-bad-exit=1",
            "--wait=60",
            "--input=none",
            "--open-mode=append",
            f"--output={folder / log_name}.log",
        ]

    def script(self) -> str:
        """What each task runs. The command replaces the shell, so that signals reach it.

        Each runs under child.py, which finds stopped processes of its task. Where a site's Slurm tracks no control
        groups, vLLM's engine would also outlive its server.
        """
        lines = ["#!/usr/bin/env bash", "set -eu"]
        lines += [f"export {name}={quoted(value)}" for name, value in self.component.env.items()]
        if self.component.name == "trainer":
            # A rank that still imports has no handler yet and would die of it; the job sends it again.
            lines.append("trap '' USR1")
        else:  # some sites' containers set them in every step
            lines.append(f"unset {' '.join(LAUNCHERS_VARIABLES)}")
        lines.append(" ".join(["exec", *map(quoted, self.component.wrapped(Reference("$PPID")))]))
        return "\n".join(lines) + "\n"


class Reference(str):
    """Shell text that is to be expanded in the task: a variable of Slurm's, or a secret."""


def quoted(value: str) -> str:
    return f'"{value}"' if isinstance(value, Reference) else shlex.quote(value)


def plan_training(cfg: Config, allocation: Allocation) -> list[Step]:
    """The steps of train_grpo, in the order in which they start. Fills in `cfg` what follows from the allocation, the
    servers' URLs included.

    Raises:
        ValueError: the parallel layout does not fit the allocation.
    """
    places = place(cfg, allocation)
    # Steps that share GPUs overlap, and are handed the same ones; others have theirs to themselves.
    cpus_per_gpu = max(1, allocation.cpus // allocation.gpus) if allocation.gpus and not places.shared else 0
    cfg.reward.host, cfg.reward.port = allocation.nodes[0], allocation.port + 2
    servers = [
        Step(component, (node,), gpus_per_node=places.server_gpus, cpus_per_task=cpus_per_gpu * places.server_gpus)
        for node, component in zip(places.serving, rollouts(cfg, allocation, places), strict=True)
    ]
    ranks = Step(
        trainer(cfg, allocation, places),
        places.training,
        tasks_per_node=places.ranks,
        gpus_per_node=places.ranks if allocation.gpus else 0,
        cpus_per_task=cpus_per_gpu,
    )
    return [Step(reward(cfg), allocation.nodes[:1]), *servers, ranks]


def reward(cfg: Config) -> Component:
    component = reward_server(cfg)
    component.env = with_secrets(component.env)
    return component


def rollouts(cfg: Config, allocation: Allocation, places: Places) -> list[Component]:
    """A vLLM server for each serving node; unlike `components.rollout_servers`, for nodes that may be of another kind
    than this one."""
    port, cuda = allocation.port + 1, bool(allocation.gpus)
    cfg.rollout.host, cfg.rollout.port = places.serving[0], port
    cfg.rollout.urls = [f"http://{node}:{port}" for node in places.serving]
    components, names = [], rollout_names(len(places.serving))
    for name, node, url in zip(names, places.serving, cfg.rollout.urls, strict=True):
        key = cfg.rollout.api_key
        argv, env = vllm_command(cfg, cfg.model.path, port, key, host=node, cuda=cuda, beside=1)  # one a node
        env = with_secrets(env) | (NCCL if cuda else {})
        components.append(server(name, argv, env, url, cfg))
    return components


def trainer(cfg: Config, allocation: Allocation, places: Places) -> Component:
    """A rank for each task: no torchrun, which dies of SIGUSR1, so that no rank would hear of it."""
    argv = [sys.executable, "-m", "alphamed_nemo.grpo.worker", str(RunFolder.of(cfg).config)]
    env = {
        "RANK": Reference("$SLURM_PROCID"),
        "WORLD_SIZE": Reference("$SLURM_NTASKS"),
        "LOCAL_RANK": Reference("$SLURM_LOCALID"),
        "LOCAL_WORLD_SIZE": str(places.ranks),
        "MASTER_ADDR": places.training[0],
        "MASTER_PORT": str(allocation.port),
        # The rank's share of the node's cores; torch would take all of them on each rank.
        "OMP_NUM_THREADS": str(max(1, allocation.cpus // (allocation.gpus or places.ranks))),
    }
    if allocation.gpus:
        # As Megatron's own launch scripts have them.
        env |= {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "TORCH_NCCL_AVOID_RECORD_STREAMS": "1", **NCCL}
        env |= allocator_settings(cfg)
    else:
        env |= {"CUDA_VISIBLE_DEVICES": ""}
    return Component("trainer", argv, env, grace_s=SAVE_S, silent_within_s=cfg.run.hang_timeout_s)


def with_secrets(env: dict[str, str]) -> dict[str, str]:
    """`env` with each secret replaced by the variable of the job that holds it: the steps are files."""
    variables = {os.environ[name]: name for name in SECRETS.values() if os.environ.get(name)}
    return {name: Reference(f"${variables[value]}") if value in variables else value for name, value in env.items()}


def write_steps(cfg: Config, steps: list[Step], folder: Path) -> None:
    """Writes config.yaml of the run and, in `folder`, for each step its srun options and its script, and `steps`:
    name, health URL (- for none), restarts, and in whole seconds the limits of `Component` for being ready, without an
    answer, with a wrong one, and for its end; tab-separated, in order."""
    folder.mkdir(parents=True)
    keep_config(cfg)
    write_config(cfg, folder / "config.yaml")
    lines = []
    for step in steps:
        component = step.component
        write_private(folder / f"{component.name}.srun", "".join(f"{option}\n" for option in step.srun_options(folder)))
        write_private(folder / f"{component.name}.sh", step.script())
        for log_name in step.log_names():  # srun appends
            write_private(folder / log_name, "")
        limits = component.ready_within_s, component.silent_within_s, component.sick_within_s, component.ends_within_s
        columns = component.name, component.health or "-", component.restarts, *map(math.ceil, limits)
        lines.append("\t".join(map(str, columns)))
    write_text(folder / "steps", "\n".join(lines) + "\n")


def begin(cfg: Config, allocation: Allocation, folder: Path) -> None:
    """Writes the steps of this attempt to `folder`, unless the run is complete.

    Raises:
        ValueError: a setting cannot work, the run is in use, or its checkpoint is of another run.
    """
    steps = plan_training(cfg, allocation)
    cfg.run.resume = cfg.run.resume or was_started_before(cfg, allocation)
    if cfg.run.resume and is_complete(cfg):
        log.info("%s is complete: nothing to do", RunFolder.of(cfg).root)
        return
    with training(cfg, "the start of train_grpo"):
        write_steps(cfg, steps, folder)


def was_started_before(cfg: Config, allocation: Allocation) -> bool:
    """Whether an earlier attempt of this job has begun the run: run.resume=false is for the first one."""
    job = allocation.attempt.rpartition("-")[0]
    return any(RunFolder.of(cfg).logs.glob(f"{job}-*"))


def is_complete(cfg: Config) -> bool:
    """Whether training has reached `grpo.steps`. A DONE of fewer steps than are asked for now is removed."""
    folder = RunFolder.of(cfg)
    if not folder.done.exists():
        return False
    saved = checkpoints_in(folder.checkpoints)
    if saved and step_of(saved[-1]) >= cfg.grpo.steps:
        return True
    folder.done.unlink()
    return False


def description(cfg: Config, allocation: Allocation, steps: list[Step]) -> str:
    """What a user wants to know before submitting; `steps` are those of `plan_training`."""
    folder, parallel, places = RunFolder.of(cfg), cfg.parallel, place(cfg, allocation)
    lines = [
        f"run       {folder.root}: {cfg.grpo.steps} steps of {cfg.grpo.questions_per_step} questions × "
        f"{cfg.grpo.samples_per_question} samples, a checkpoint every {cfg.grpo.save_every}",
        f"nodes     {nodes_text(allocation)}: training on {' '.join(places.training)}, "
        f"rollouts on {' '.join(places.serving)}, rewards on {allocation.nodes[0]}",
        f"placement {cfg.rollout.placement}: {idle_text(allocation, places.idle)}",
        f"layout    tensor {parallel.tensor} × pipeline {parallel.pipeline} × data {parallel.data} = "
        f"{parallel.world_size} ranks, {places.ranks} a node; "
        f"{len(places.serving)} × vLLM tensor {cfg.rollout.tensor} × engines {cfg.rollout.engines}",
    ]
    if allocation.gpus:
        from alphamed_nemo.plan.changes import advise  # torch, which takes seconds
        from alphamed_nemo.plan.prediction import make_plan
        from alphamed_nemo.plan.text import plan_text

        know_card(cfg, allocation)
        needed = make_plan(cfg)
        lines += ["", plan_text(needed, [] if needed.fits else advise(needed))]
    for step in steps:
        lines += ["", f"srun {' '.join(step.srun_options(folder.logs / allocation.attempt))} \\"]
        lines += [f"    {line}" for line in step.script().splitlines()[2:]]
    return "\n".join(lines)


def nodes_text(allocation: Allocation) -> str:
    gpus = f" with {allocation.gpus} GPUs each" if allocation.gpus else ", no GPUs"
    return f"{len(allocation.nodes)}{gpus}" + (f" ({allocation.card})" if allocation.card else "")


def idle_text(allocation: Allocation, idle: int) -> str:
    if not allocation.gpus:
        return "no GPUs"
    gpus = len(allocation.nodes) * allocation.gpus
    return f"{idle} of {gpus} GPUs would idle" if idle else f"all {gpus} GPUs work"


def know_card(cfg: Config, allocation: Allocation) -> None:
    """Lets the plan be of the allocation's nodes, and of its card where that is one that the plan knows."""
    cfg.plan.gpus_per_node = allocation.gpus
    if allocation.gpu_type:
        cfg.plan.gpu = allocation.gpu_type
    else:
        found = f"the plan does not know {allocation.card}" if allocation.card else "Slurm does not name the card"
        log.warning("%s: its figures are of plan.gpu=%s; set plan.memory_gib and the like", found, cfg.plan.gpu)


def describe_stage(cfg: Config, allocation: Allocation, stage: str) -> str:
    """What a job of one recipe would do on the first node.

    Args:
        stage: label_difficulty or evaluate, which start a server on all GPUs of the node; another recipe needs none.
    """
    lines = [f"run       {RunFolder.of(cfg).root}: {stage}", f"nodes     {nodes_text(allocation)}"]
    if allocation.gpus and stage in ASKING:
        from alphamed_nemo.plan.asking import asking_text  # torch, which takes seconds

        cfg.rollout.engines = engines(cfg, allocation.gpus)
        know_card(cfg, allocation)
        used = cfg.rollout.devices
        lines.append(f"rollouts  vLLM tensor {cfg.rollout.tensor} × engines {cfg.rollout.engines}")
        lines.append(f"placement {idle_text(allocation, len(allocation.nodes) * allocation.gpus - used)}")
        lines.append(asking_text(cfg, stage))
    return "\n".join(lines)


def check_path(folder: Path) -> None:
    """Refuses a folder that srun's --output cannot name: % and \\ have a meaning there, and options are kept as lines.

    Raises:
        ValueError: names the settings and the folder.
    """
    if set(str(folder)) & set("%\\\n"):
        raise ValueError(
            f"run.dir and run.name: found {str(folder)!r}, expected a path that Slurm can write logs to, without "
            "percent signs, backslashes and line breaks"
        )


def dry_run(cfg: Config, allocation: Allocation) -> str:
    """The description, once the settings are known to fit the model, and what could not be checked here."""
    if Path(cfg.model.path).is_dir():  # a login node may not see it
        check_built(cfg)
    described = description(cfg, allocation, plan_training(cfg, allocation))
    return "\n".join([described, "", "not checked here; the job checks it before it starts anything:", *unchecked(cfg)])


def unchecked(cfg: Config) -> list[str]:
    """What a dry run leaves to the job's first step, one line each."""
    left = []
    if not Path(cfg.model.path).is_dir():
        left.append(f"the model's files: there is no {cfg.model.path} on this machine (model.path)")
    if Path(cfg.grpo.questions).is_file():
        left.append(f"whether the prompts of {cfg.grpo.questions} fit into model.max_length")
    else:
        left.append(f"the questions: there is no {cfg.grpo.questions} yet (grpo.questions)")
    left.append("the nodes: GPUs, the image or environment, and that all of them see the run folder and each other")
    return [f"  {line}" for line in left]


@recipe("train_grpo", on_gpus=lambda: Allocation.from_environment().gpus > 0)
def main(cfg: Config) -> None:
    allocation = Allocation.from_environment()
    folder = RunFolder.of(cfg).logs / allocation.attempt
    for (section, name), variable in SECRETS.items():
        setattr(getattr(cfg, section), name, os.environ[variable])
    check_own_code(cfg)
    if stage := os.environ.get("ALPHAMED_STAGE"):
        print(describe_stage(cfg, allocation, stage))
        return
    check_path(folder)
    if os.environ.get("ALPHAMED_DRY_RUN"):
        print(dry_run(cfg, allocation))
        return
    begin(cfg, allocation, folder)
    print(folder)


if __name__ == "__main__":
    main()
