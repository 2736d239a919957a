"""What a Slurm job would run: placement, srun options, scripts, and the refusals."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config, ParallelConfig
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
    """Tensor 2 × pipeline 2 × data 4, a server of 4 GPUs, and a model folder with config.json."""
    cfg = Config()
    cfg.run.dir, cfg.run.name = str(tmp_path), "test"
    cfg.model.path = str(tmp_path / "model")
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    cfg.parallel.tensor, cfg.parallel.pipeline, cfg.parallel.data = 2, 2, 4
    cfg.rollout.tensor, cfg.rollout.max_new_tokens, cfg.model.max_length = 4, 1500, 2048
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    cfg.rollout.api_key, cfg.reward.api_key = KEYS.values()
    model = CONFIGS["llama"].to_dict() | {"head_dim": 32}  # a size that vLLM has on CPU
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(model))
    return cfg


def allocation(nodes: int, gpus: int = 8, rollout_nodes: int = 1) -> Allocation:
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
    assert cfg.rollout.url == "http://n3:20401" and cfg.reward.url == "http://n1:20402"


def test_steps_with_gpus_on_one_node_take_disjoint_shares(cfg: Config) -> None:
    cfg.parallel.data = 1
    reward, rollout, trainer = (options(step) for step in slurm.plan_training(cfg, allocation(1, rollout_nodes=0)))
    assert "overlap" in reward and "exact" not in reward
    for step in (rollout, trainer):
        assert "exact" in step and "overlap" not in step
    shares = [int(step["ntasks"]) * int(step["cpus-per-task"]) for step in (rollout, trainer)]
    assert sum(shares) == 64
    assert int(rollout["gpus-per-node"]) + int(trainer["gpus-per-node"]) == 8


def test_without_gpus_all_steps_share_the_nodes(cfg: Config) -> None:
    cfg.rollout.tensor = 1
    steps = slurm.plan_training(cfg, allocation(2, gpus=0, rollout_nodes=0))
    assert all("overlap" in options(step) and "cpus-per-task" not in options(step) for step in steps)
    assert steps[1].nodes == ("n1",) and steps[2].nodes == ("n1", "n2")
    assert steps[2].component.env["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("nodes", "gpus", "rollout_nodes", "message"),
    [
        (4, 8, 1, "16 ranks, which 3 training nodes of 4 cannot share evenly"),
        (1, 8, 1, "the only node is for rollouts"),
        (1, 8, 0, "need more than the 8 GPUs of a node"),
        (2, 8, 0, "found 0 with several nodes of GPUs"),
        (2, 8, 2, "found 2, expected 0 or 1"),
        (5, 3, 1, "need more than the 3 GPUs of a node; sbatch --nodes=7"),
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


def test_servers_run_where_nothing_outlives_them(cfg: Config) -> None:
    for step in slurm.plan_training(cfg, allocation(3))[:2]:
        words = shlex.split(step.script().splitlines()[-1])
        assert words[2:6] == ["-IS", str(Path(slurm.__file__).with_name("child.py")), "$PPID", "10"]
        assert words[6:] == step.component.argv


def test_no_secret_is_written(cfg: Config) -> None:
    folder = Path(cfg.run.dir) / "test" / "logs" / "17-0"
    steps = slurm.plan_training(cfg, allocation(3))
    slurm.write_steps(cfg, steps, folder)
    written = "".join(path.read_text() for path in Path(cfg.run.dir).rglob("*") if path.is_file())
    assert 'export VLLM_API_KEY="$ALPHAMED_ROLLOUT_API_KEY"' in written
    assert not any(secret in written for secret in KEYS.values())
    assert not any(secret in slurm.description(cfg, allocation(3), steps[:0] + steps) for secret in KEYS.values())


def test_the_ranks_read_what_the_plan_has_decided(cfg: Config) -> None:
    folder = Path(cfg.run.dir) / "test" / "logs" / "17-0"
    slurm.write_steps(cfg, slurm.plan_training(cfg, allocation(3)), folder)
    assert load_config(Path(cfg.run.dir) / "test" / "config.yaml") == cfg
    rows = [line.split("\t") for line in (folder / "steps").read_text().splitlines()]
    assert [row[0] for row in rows] == ["reward", "vllm", "trainer"]
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
    assert slurm.dry_run(cfg, allocation(3)) == slurm.description(
        cfg, allocation(3), slurm.plan_training(cfg, allocation(3))
    )
    cfg.parallel.tensor, cfg.parallel.data = 3, 1
    with pytest.raises(ValueError, match="parallel.tensor: 3 does not divide the model's"):
        slurm.dry_run(cfg, allocation(3))


@pytest.fixture
def tiny(cfg: Config) -> Config:
    """A run that can be planned to the end: one rank of the tiny model on a CPU node, with questions."""
    cfg.model.path, cfg.model.max_length = str(ASSETS / "tiny_base"), 192
    cfg.parallel, cfg.rollout.tensor, cfg.rollout.max_new_tokens = ParallelConfig(), 1, 48
    cfg.data.prompt, cfg.data.chat_template = "tiny", False
    fill_paths(cfg)
    cfg.grpo.questions_per_step = 8
    write_questions(embedded_bank(8, 0)[0], cfg.grpo.questions)
    return cfg


def begin(cfg: Config, attempt: str, **run: object) -> Path:
    """One attempt, with settings that only the command line has."""
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, **run))
    node = dataclasses.replace(allocation(1, gpus=0, rollout_nodes=0), attempt=attempt)
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
