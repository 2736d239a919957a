"""What one attempt of a Slurm job runs, and where: checked, then written as steps that slurm/common.sh starts.

    python -m alphamed_nemo.launch.slurm experiment=grpo_8b

The job is described by environment variables, which slurm/common.sh sets: those that `Allocation.from_environment`
reads, and the keys of the servers. Prints the folder of the steps. With ALPHAMED_DRY_RUN=1 it writes nothing and prints
what would run. The split between the two languages: Slurm's commands exist outside of the container only, and the
project's Python inside only.
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
from alphamed_nemo.config.files import SECRETS, write_config
from alphamed_nemo.config.private import write_private
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.launch.allocation import Allocation, check_allocation
from alphamed_nemo.launch.components import Component, reward_server, server
from alphamed_nemo.policy.checkpoint.manifest import checkpoints_in, step_of
from alphamed_nemo.rollout.vllm_command import vllm_command

log = logging.getLogger(__name__)

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
            "--export=ALL",
            "--mpi=none",
            "--kill-on-bad-exit=1",
            "--wait=60",
            "--input=none",
            "--open-mode=append",
            f"--output={folder / log_name}.log",
        ]

    def script(self) -> str:
        """What each task runs. The command replaces the shell, so that signals reach it.

        A server runs under child.py: where a site's Slurm tracks no control groups, vLLM's engine would outlive it.
        """
        lines = ["#!/usr/bin/env bash", "set -eu"]
        lines += [f"export {name}={quoted(value)}" for name, value in self.component.env.items()]
        if self.component.name == "trainer":
            # A rank that still imports has no handler yet and would die of it; the job sends it again.
            lines.append("trap '' USR1")
            command = shlex.join(self.component.argv)
        else:  # some sites' containers set them in every step
            lines.append(f"unset {' '.join(LAUNCHERS_VARIABLES)}")
            wrapper = shlex.join([sys.executable, "-IS", str(Path(__file__).with_name("child.py"))])
            command = f'{wrapper} "$PPID" {self.component.grace_s} {shlex.join(self.component.argv)}'
        lines.append(f"exec {command}")
        return "\n".join(lines) + "\n"


class Reference(str):
    """Shell text that is to be expanded in the task: a variable of Slurm's, or a secret."""


def quoted(value: str) -> str:
    return f'"{value}"' if isinstance(value, Reference) else shlex.quote(value)


def plan_training(cfg: Config, allocation: Allocation) -> list[Step]:
    """The steps of train_grpo, in the order in which they start. Fills the servers' URLs in `cfg`.

    Raises:
        ValueError: the parallel layout does not fit the allocation.
    """
    per_node = check_allocation(cfg, allocation)
    cpus_per_gpu = max(1, allocation.cpus // allocation.gpus) if allocation.gpus else 0
    # A node of its own: all of it, whatever rollout.extra_args asks for. Else what its engines need.
    rollout_gpus = allocation.gpus if allocation.rollout_nodes else min(allocation.gpus, cfg.rollout.world_size)
    cfg.reward.host, cfg.reward.port = allocation.nodes[0], allocation.port + 2
    return [
        Step(reward(cfg), allocation.nodes[:1]),
        Step(
            rollout(cfg, allocation),
            (allocation.rollout,),
            gpus_per_node=rollout_gpus,
            cpus_per_task=cpus_per_gpu * rollout_gpus,
        ),
        Step(
            trainer(cfg, allocation, per_node),
            allocation.training,
            tasks_per_node=per_node,
            gpus_per_node=per_node if allocation.gpus else 0,
            cpus_per_task=cpus_per_gpu,
        ),
    ]


def reward(cfg: Config) -> Component:
    component = reward_server(cfg)
    component.env = with_secrets(component.env)
    return component


def rollout(cfg: Config, allocation: Allocation) -> Component:
    """The vLLM server; unlike `components.rollout_server`, for a node that may be another kind than this one."""
    cfg.rollout.host, cfg.rollout.port = allocation.rollout, allocation.port + 1
    cfg.rollout.url = f"http://{cfg.rollout.host}:{cfg.rollout.port}"
    argv, env = vllm_command(cfg, cfg.model.path, cfg.rollout.port, cfg.rollout.api_key, cuda=bool(allocation.gpus))
    return server("vllm", argv, with_secrets(env), cfg.rollout.url, cfg)


def trainer(cfg: Config, allocation: Allocation, per_node: int) -> Component:
    """A rank for each task: no torchrun, which dies of SIGUSR1, so that no rank would hear of it."""
    argv = [sys.executable, "-m", "alphamed_nemo.grpo.worker", str(RunFolder.of(cfg).config)]
    env = {
        "RANK": Reference("$SLURM_PROCID"),
        "WORLD_SIZE": Reference("$SLURM_NTASKS"),
        "LOCAL_RANK": Reference("$SLURM_LOCALID"),
        "LOCAL_WORLD_SIZE": str(per_node),
        "MASTER_ADDR": allocation.training[0],
        "MASTER_PORT": str(allocation.port),
    }
    if allocation.gpus:
        # As Megatron's own launch scripts have them.
        env |= {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "TORCH_NCCL_AVOID_RECORD_STREAMS": "1", "NCCL_NVLS_ENABLE": "0"}
    else:
        env |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(max(1, allocation.cpus // per_node))}
    return Component("trainer", argv, env)


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
    (folder / "steps").write_text("\n".join(lines) + "\n")


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
    """What a user wants to know before submitting."""
    folder, parallel = RunFolder.of(cfg), cfg.parallel
    gpus = f" with {allocation.gpus} GPUs each" if allocation.gpus else ", no GPUs"
    lines = [
        f"run       {folder.root}: {cfg.grpo.steps} steps of {cfg.grpo.questions_per_step} questions × "
        f"{cfg.grpo.samples_per_question} samples, a checkpoint every {cfg.grpo.save_every}",
        f"nodes     {len(allocation.nodes)}{gpus}: training on {' '.join(allocation.training)}, "
        f"rollouts on {allocation.rollout}, rewards on {allocation.nodes[0]}",
        f"layout    tensor {parallel.tensor} × pipeline {parallel.pipeline} × data {parallel.data} = "
        f"{parallel.world_size} ranks, {steps[-1].tasks_per_node} a node; "
        f"vLLM tensor {cfg.rollout.tensor} × engines {cfg.rollout.engines}",
    ]
    if allocation.gpus:
        from alphamed_nemo.plan.changes import advise  # torch, which takes seconds
        from alphamed_nemo.plan.prediction import make_plan
        from alphamed_nemo.plan.text import plan_text

        cfg.plan.gpus_per_node, cfg.plan.rollout_nodes = allocation.gpus, allocation.rollout_nodes
        needed = make_plan(cfg)
        lines += ["", plan_text(needed, [] if needed.fits else advise(needed))]
    for step in steps:
        lines += ["", f"srun {' '.join(step.srun_options(folder.logs / allocation.attempt))} \\"]
        lines += [f"    {line}" for line in step.script().splitlines()[2:]]
    return "\n".join(lines)


def dry_run(cfg: Config, allocation: Allocation) -> str:
    """The description, once the settings are known to fit the model."""
    if Path(cfg.model.path).is_dir():  # a login node may not see it
        check_built(cfg)
    return description(cfg, allocation, plan_training(cfg, allocation))


@recipe("train_grpo", on_gpus=lambda: Allocation.from_environment().gpus > 0)
def main(cfg: Config) -> None:
    allocation = Allocation.from_environment()
    folder = RunFolder.of(cfg).logs / allocation.attempt
    for (section, name), variable in SECRETS.items():
        setattr(getattr(cfg, section), name, os.environ[variable])
    check_own_code(cfg)
    if os.environ.get("ALPHAMED_DRY_RUN"):
        print(dry_run(cfg, allocation))
        return
    begin(cfg, allocation, folder)
    print(folder)


if __name__ == "__main__":
    main()
