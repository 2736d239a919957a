"""What a Slurm job would run: placement, srun options, scripts, and the refusals."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config, ParallelConfig
from alphamed_nemo.config.choices import Placement
from alphamed_nemo.config.files import load_config
from alphamed_nemo.config.run_folder import fill_paths
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.launch import slurm
from alphamed_nemo.launch.allocation import Allocation
from alphamed_nemo.run_lock import hold
from tests.tiny_hf import CONFIGS, write_model

ASSETS = Path(slurm.__file__).parents[1] / "assets"
KEYS = {"ALPHAMED_ROLLOUT_API_KEY": "rollout/secret+1==", "ALPHAMED_REWARD_API_KEY": "reward/secret+2=="}


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Tensor 2 × pipeline 2 × data 4, engines of 4 GPUs on a node of their own, and a model folder with config.json."""
    cfg = Config()
    cfg.run.dir, cfg.run.name = str(tmp_path), "test"
    cfg.model.path = str(tmp_path / "model")
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    cfg.parallel.tensor, cfg.parallel.pipeline, cfg.parallel.data = 2, 2, 4
    cfg.rollout.placement, cfg.rollout.tensor = "separate", 4
    cfg.rollout.max_new_tokens, cfg.model.max_length = 1500, 2048
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    cfg.rollout.api_key, cfg.reward.api_key = KEYS.values()
    model = CONFIGS["llama"].to_dict() | {"head_dim": 32}  # a size that vLLM has on CPU
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(model))
    return cfg


def allocation(nodes: int, gpus: int = 8, rollout_nodes: int | None = None) -> Allocation:
    names = tuple(f"n{number}" for number in range(1, nodes + 1))
    return Allocation(names, gpus, 64 if gpus else 2, rollout_nodes, 20_400, "17-0")


def options(step: slurm.Step) -> dict[str, str]:
    pairs = (option.removeprefix("--").partition("=") for option in step.srun_options(Path("/logs")))
    return {name: value for name, _, value in pairs}


def test_training_and_rollouts_have_nodes_of_their_own(cfg: Config) -> None:
    reward, rollout, trainer = (options(step) for step in slurm.plan_training(cfg, allocation(3)))
    assert (trainer["nodelist"], trainer["ntasks"], trainer["ntasks-per-node"]) == ("n1,n2", "16", "8")
    assert (rollout["nodelist"], rollout["ntasks"], rollout["gpus-per-node"]) == ("n3", "1", "8")
    assert (reward["nodelist"], reward["gpus-per-node"]) == ("n1", "0")
    assert cfg.rollout.urls == ["http://n3:20401"] and cfg.reward.url == "http://n1:20402"
    assert (cfg.rollout.placement, cfg.rollout.servers, cfg.rollout.engines) == ("separate", 1, 2)
    for step in (rollout, trainer):
        assert "exact" in step and "overlap" not in step


@pytest.mark.parametrize("from_environment", [True, False])
def test_each_of_the_last_nodes_has_a_server_with_a_name_an_address_and_restarts_of_its_own(
    cfg: Config, from_environment: bool
) -> None:
    cfg.rollout.servers = 1 if from_environment else 3
    steps = slurm.plan_training(cfg, allocation(5, rollout_nodes=3 if from_environment else None))
    servers = steps[1:-1]
    assert [step.component.name for step in servers] == ["vllm-0", "vllm-1", "vllm-2"]
    assert [step.nodes for step in servers] == [("n3",), ("n4",), ("n5",)]
    assert cfg.rollout.urls == [f"http://n{n}:20401" for n in (3, 4, 5)] and cfg.rollout.servers == 3
    for step, url in zip(servers, cfg.rollout.urls, strict=True):
        words = step.component.argv
        assert words[words.index("--host") + 1] == url.removeprefix("http://").partition(":")[0]
        assert step.component.health == f"{url}/health" and step.component.restarts == cfg.run.server_restarts
    assert steps[-1].nodes == ("n1", "n2")


@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_colocated_every_node_has_ranks_and_a_server_on_all_of_its_gpus(cfg: Config, nodes: int) -> None:
    cfg.rollout.placement, cfg.parallel.data = "colocated", 2 * nodes
    steps = slurm.plan_training(cfg, allocation(nodes))
    assert len(cfg.rollout.urls) == cfg.rollout.servers == nodes and cfg.rollout.engines == 2
    assert [step.nodes for step in steps[1:-1]] == [(f"n{n}",) for n in range(1, nodes + 1)]
    for step in map(options, steps[1:]):  # --exact steps would be given other GPUs, or refused
        assert "overlap" in step and "exact" not in step and step["gpus-per-node"] == "8"
    assert options(steps[-1])["ntasks-per-node"] == "8"
    assert f"colocated: all {8 * nodes} GPUs work" in slurm.description(cfg, allocation(nodes), steps)


def test_gpus_that_would_idle_are_counted(cfg: Config) -> None:
    cfg.parallel.data = 3  # 12 ranks on two nodes
    shown = slurm.description(cfg, allocation(3), slurm.plan_training(cfg, allocation(3)))
    assert "separate: 4 of 24 GPUs would idle" in shown and "4 of the training nodes' idle" in shown
    cfg.rollout.engines, cfg.rollout.placement = 1, "colocated"  # its engines are where ranks are
    cfg.parallel.data, cfg.rollout.tensor = 1, 2
    shown = slurm.description(cfg, allocation(1), slurm.plan_training(cfg, allocation(1)))
    assert "colocated: 4 of 8 GPUs would idle" in shown and cfg.rollout.engines == 2


def test_the_environment_decides_the_placement_where_it_names_nodes(cfg: Config) -> None:
    cfg.parallel.data = 6
    slurm.plan_training(cfg, allocation(3, rollout_nodes=0))
    assert (cfg.rollout.placement, cfg.rollout.servers) == ("colocated", 3)


def test_only_steps_that_have_gpus_see_some_in_a_container(cfg: Config) -> None:
    steps = slurm.plan_training(cfg, allocation(3))
    seen = {step.component.name: options(step)["export"].partition("=")[2] for step in steps}
    assert seen == {"reward": "void", "vllm": "all", "trainer": "all"}
    cfg.rollout.tensor = 1
    steps = slurm.plan_training(cfg, allocation(2, gpus=0, rollout_nodes=0))
    assert {options(step)["export"] for step in steps} == {"ALL,NVIDIA_VISIBLE_DEVICES=void"}


def test_trainer_and_servers_have_the_same_settings_of_nccl(cfg: Config) -> None:
    _, *steps = slurm.plan_training(cfg, allocation(3))
    settings = [{name: value for name, value in step.component.env.items() if "NCCL_" in name[:5]} for step in steps]
    assert settings[0] and all(each == settings[0] for each in settings)


def test_without_gpus_all_steps_share_the_nodes(cfg: Config) -> None:
    cfg.rollout.tensor = 1
    cfg.rollout.placement = "colocated"
    steps = slurm.plan_training(cfg, allocation(2, gpus=0))
    assert all("overlap" in options(step) and "cpus-per-task" not in options(step) for step in steps)
    assert steps[1].nodes == ("n1",) and steps[2].nodes == ("n1", "n2")
    assert cfg.rollout.transfer == "auto"  # shared memory of the first node
    assert steps[2].component.env["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("placement", "serving", "training"),
    [("colocated", ["n1", "n2"], ("n1", "n2", "n3")), ("separate", ["n2", "n3"], ("n1",))],
)
def test_without_gpus_servers_on_other_hosts_take_weights_over_gloo(
    cfg: Config, placement: Placement, serving: list[str], training: tuple[str, ...]
) -> None:
    cfg.rollout.placement, cfg.rollout.servers, cfg.rollout.tensor, cfg.parallel.data = placement, 2, 1, 3
    steps = slurm.plan_training(cfg, allocation(3, gpus=0))
    assert [step.nodes[0] for step in steps[1:-1]] == serving and steps[-1].nodes == training
    assert cfg.rollout.transfer == "gloo"
    assert all("alphamed_gloo" in " ".join(step.component.argv) for step in steps[1:-1])


def test_ranks_on_gpus_share_the_nodes_cores_and_have_segments_that_grow(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = slurm.plan_training(cfg, allocation(3))[2].component.env
    assert env["OMP_NUM_THREADS"] == "8"  # 64 cores, 8 GPUs
    assert env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:512")  # the site's own
    assert "PYTORCH_CUDA_ALLOC_CONF" not in slurm.plan_training(cfg, allocation(3))[2].component.env


@pytest.mark.parametrize(
    ("nodes", "gpus", "rollout_nodes", "message"),
    [
        (4, 8, 1, "16 ranks, which 3 training nodes of 4 cannot share evenly; parallel.data=6"),
        (1, 8, 1, r"rollout.servers: 1 nodes for rollouts leave none of 1 to train on; sbatch --nodes=2 or more"),
        (1, 8, 0, "on 1 training nodes need more than the 8 GPUs of a node; parallel.data=2"),
        (2, 8, 2, "rollout.servers: 2 nodes for rollouts leave none of 2"),
        (5, 3, 1, "need more than the 3 GPUs of a node; parallel.data=3"),
        (2, 3, 1, "need more than the 3 GPUs of a node; sbatch --nodes=7"),
        (9, 2, 1, "rollout.tensor: found 4, but a server has 2 GPUs"),
    ],
)
def test_a_layout_that_does_not_fit_the_allocation_is_refused(
    cfg: Config, nodes: int, gpus: int, rollout_nodes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        slurm.plan_training(cfg, allocation(nodes, gpus, rollout_nodes))


def test_ranks_learn_their_place_from_slurm_and_get_its_signals(cfg: Config) -> None:
    script = slurm.plan_training(cfg, allocation(3))[2].script()
    assert 'export RANK="$SLURM_PROCID"\n' in script and 'export LOCAL_RANK="$SLURM_LOCALID"\n' in script
    assert "export MASTER_ADDR=n1\nexport MASTER_PORT=20400\n" in script
    last = script.splitlines()[-1]
    assert last.startswith("exec ") and shlex.split(last)[-1] == str(Path(cfg.run.dir) / "test" / "config.yaml")


def test_each_task_runs_where_nothing_outlives_it_and_stopped_processes_are_found(cfg: Config) -> None:
    cfg.run.hang_timeout_s = 7.5
    for step, grace_s in zip(slurm.plan_training(cfg, allocation(3)), ("10", "10", "40"), strict=True):
        words = shlex.split(step.script().splitlines()[-1])
        assert words[2:7] == ["-IS", str(Path(slurm.__file__).with_name("child.py")), "$PPID", grace_s, "7.5"]
        assert words[7:] == step.component.argv


def test_no_secret_is_written(cfg: Config) -> None:
    folder = Path(cfg.run.dir) / "test" / "logs" / "17-0"
    steps = slurm.plan_training(cfg, allocation(3))
    slurm.write_steps(cfg, steps, folder)
    written = "".join(path.read_text() for path in Path(cfg.run.dir).rglob("*") if path.is_file())
    assert 'export VLLM_API_KEY="$ALPHAMED_ROLLOUT_API_KEY"' in written
    assert not any(secret in written for secret in KEYS.values())
    assert not any(secret in slurm.description(cfg, allocation(3), steps[:0] + steps) for secret in KEYS.values())


def test_a_dry_run_says_what_it_could_not_check(cfg: Config, tmp_path: Path) -> None:
    cfg.grpo.questions = str(tmp_path / "subset.jsonl")
    model, cfg.model.path = cfg.model.path, "/nowhere/Llama-3.1-8B-Instruct"  # the plan knows its size
    shown = slurm.dry_run(cfg, allocation(3)).splitlines()
    said = slurm.unchecked(cfg)
    assert f"the model's files: there is no {cfg.model.path} on this machine" in said[0]
    assert f"the questions: there is no {cfg.grpo.questions} yet" in said[1] and "the nodes: " in said[2]
    assert shown[-4].startswith("not checked here") and shown[-3:] == said
    cfg.model.path = model
    Path(cfg.grpo.questions).touch()
    said = slurm.unchecked(cfg)
    assert len(said) == 2 and "fit into model.max_length" in said[0]


def test_the_ranks_read_what_the_plan_has_decided(cfg: Config) -> None:
    folder = Path(cfg.run.dir) / "test" / "logs" / "17-0"
    slurm.write_steps(cfg, slurm.plan_training(cfg, allocation(3)), folder)
    assert load_config(Path(cfg.run.dir) / "test" / "config.yaml") == cfg
    rows = [line.split("\t") for line in (folder / "steps").read_text().splitlines()]
    assert [row[0] for row in rows] == ["reward", "vllm", "trainer"]  # one server; more have numbers
    assert [row[1] for row in rows] == ["http://n1:20402/health", "http://n3:20401/health", "-"]
    assert all((folder / f"{row[0]}.srun").exists() and (folder / f"{row[0]}.sh").exists() for row in rows)


def test_steps_and_the_logs_that_they_will_write_are_their_owners(cfg: Config) -> None:
    folder = Path(cfg.run.dir) / "test" / "logs" / "17-0"
    steps = slurm.plan_training(cfg, allocation(3))
    slurm.write_steps(cfg, steps, folder)
    private = [*folder.glob("*.sh"), *folder.glob("*.srun"), *folder.glob("*.log"), *folder.rglob("config.yaml")]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    ranks = [path for path in private if path.name.startswith("trainer-") and path.suffix == ".log"]
    assert len(ranks) == cfg.parallel.world_size and (folder / "vllm.log") in private


def test_a_complete_run_asked_for_more_steps_is_not_complete(cfg: Config) -> None:
    root = Path(cfg.run.dir) / "test"
    (root / "checkpoints" / "step_40").mkdir(parents=True)
    cfg.grpo.steps = 40
    (root / "DONE").touch()
    assert slurm.is_complete(cfg)
    cfg.grpo.steps = 60
    assert not slurm.is_complete(cfg) and not (root / "DONE").exists()


def test_a_dry_run_says_whether_the_memory_is_enough(cfg: Config) -> None:
    shown = slurm.description(cfg, allocation(3), slurm.plan_training(cfg, allocation(3)))
    assert "training on n1 n2, rollouts on n3, rewards on n1" in shown
    assert "tensor 2 × pipeline 2 × data 4 = 16 ranks, 8 a node" in shown
    assert "Memory on the fullest GPU" in shown and shown.count("\nsrun --job-name=") == 3


def test_the_reward_step_has_the_users_functions(cfg: Config) -> None:
    place = "examples/format_reward.py:format_reward"
    cfg.reward.functions, cfg.reward.weights = ["correct", place], [1.0, 0.2]
    reward, *_ = slurm.plan_training(cfg, allocation(3))
    command = shlex.split(reward.script().splitlines()[-1])
    assert f"--function={place}=0.2" in command and "--function=correct=1.0" in command


def test_a_dry_run_checks_the_layout_against_a_model_that_it_sees(cfg: Config) -> None:
    (write_model(Path(cfg.model.path), "llama") / "tokenizer.json").write_text("{}")
    planned = slurm.description(cfg, allocation(3), slurm.plan_training(cfg, allocation(3)))
    assert slurm.dry_run(cfg, allocation(3)).startswith(f"{planned}\n\nnot checked here; ")
    cfg.parallel.tensor, cfg.parallel.data = 3, 1
    with pytest.raises(ValueError, match="parallel.tensor: 3 does not divide the model's"):
        slurm.dry_run(cfg, allocation(3))


@pytest.fixture
def tiny(cfg: Config) -> Config:
    """A run that can be planned to the end: one rank of the tiny model on a CPU node, with questions."""
    cfg.model.path, cfg.model.max_length = str(ASSETS / "tiny_base"), 192
    cfg.parallel, cfg.rollout.tensor, cfg.rollout.max_new_tokens = ParallelConfig(), 1, 48
    cfg.rollout.placement = "colocated"
    cfg.data.prompt, cfg.data.chat_template = "tiny", False
    fill_paths(cfg)
    cfg.grpo.questions_per_step = 8
    write_questions(embedded_bank(8, 0)[0], cfg.grpo.questions)
    return cfg


def begin(cfg: Config, attempt: str, **run: object) -> Path:
    """One attempt, with settings that only the command line has."""
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, **run))
    node = dataclasses.replace(allocation(1, gpus=0), attempt=attempt)
    folder = Path(cfg.run.dir) / "test" / "logs" / attempt
    slurm.begin(cfg, node, folder)
    return folder


def test_a_requeued_job_resumes_its_own_run_although_it_was_submitted_to_start_afresh(tiny: Config) -> None:
    root = Path(tiny.run.dir) / "test"
    (root / "checkpoints" / "step_75").mkdir(parents=True)  # an earlier run, complete
    (root / "DONE").touch()
    begin(tiny, "17-0", resume=False)
    assert not (root / "checkpoints").exists() and not (root / "DONE").exists()
    (aside,) = Path(tiny.run.dir).glob("test.*")
    assert (aside / "DONE").exists() and (aside / "checkpoints" / "step_75").is_dir()
    (root / "checkpoints" / "step_10").mkdir(parents=True)  # what the first attempt has saved
    begin(tiny, "17-1", resume=False)
    assert (root / "checkpoints" / "step_10").is_dir()
    assert load_config(root / "config.yaml").run.resume
    assert not load_config(root / "attempts" / "1.yaml").run.resume
    begin(tiny, "18-0", resume=False)  # another job
    assert not (root / "checkpoints").exists() and len(list(Path(tiny.run.dir).glob("test.*"))) == 2


def test_a_job_whose_run_a_trainer_still_writes_is_refused(tiny: Config) -> None:
    root = Path(tiny.run.dir) / "test"
    with hold(root / ".trainer.lock", "trainer"), pytest.raises(ValueError, match="in use by trainer on"):
        begin(tiny, "17-0")
    assert not (root / "logs").exists() and not (root / "config.yaml").exists()
