"""GRPO on its real parts: Megatron at TP=2 × PP=2, vLLM, the reward server, refit after every update."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config, ParallelConfig
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.errors import ComponentError
from alphamed_nemo.launch.child import descendants
from alphamed_nemo.launch.components import trainer
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import start_servers, wait_ready
from alphamed_nemo.policy.checkpoint import manifest
from tests.integration.conftest import mounted
from tests.metrics_rows import timeless

BASE = Path(__file__).parents[2] / "alphamed_nemo" / "assets" / "tiny_base"
WORKER = "alphamed_nemo.grpo.worker"
LIMIT_S = 120  # for what should take seconds


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Config, Launcher]]:
    """A vLLM server on the shipped base model and a reward server, for every run of this file."""
    folder = tmp_path_factory.mktemp("grpo")
    cfg = Config()
    cfg.run.dir = str(folder)
    cfg.run.loggers = []
    cfg.model.path, cfg.model.max_length = str(BASE), 192
    cfg.rollout.max_new_tokens = 48
    cfg.data.prompt = "tiny"
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    cfg.parallel = ParallelConfig(tensor=2, pipeline=2)
    cfg.optim.lr = 3e-4
    cfg.rollout.request_timeout_s = 10.0
    cfg.grpo.questions = str(folder / "train.jsonl")
    cfg.grpo.questions_per_step, cfg.grpo.samples_per_question = 8, 4
    write_questions(embedded_bank(64, 0)[0], cfg.grpo.questions)
    with Launcher(folder / "servers") as launcher:
        start_servers(cfg, launcher, cfg.model.path)
        wait_ready(launcher)
        yield cfg, launcher


def start_training(
    servers: tuple[Config, Launcher],
    name: str,
    worker: str = WORKER,
    check: bool = True,
    accept: Sequence[str] = (),
    optim: dict[str, float] | None = None,
    validate: dict[str, Any] | None = None,
    **grpo: object,
) -> RunFolder:
    """Starts the trainer of a run of its own; `check`: every refit; `accept`: changes since its checkpoint."""
    cfg, launcher = servers
    cfg = dataclasses.replace(
        cfg,
        run=dataclasses.replace(cfg.run, name=name, accept_changes=list(accept)),
        grpo=dataclasses.replace(cfg.grpo, **grpo),
        optim=dataclasses.replace(cfg.optim, **(optim or {})),
        validate=dataclasses.replace(cfg.validate, **(validate or {})),
        rollout=dataclasses.replace(cfg.rollout, check_every_refit=check),
    )
    folder = RunFolder.of(cfg)
    write_config(cfg, folder.config)
    component = trainer(cfg)
    component.argv = [worker if word == WORKER else word for word in component.argv]
    launcher.start(component)
    return folder


def train(servers: tuple[Config, Launcher], name: str, **settings: Any) -> list[dict]:
    """Trains to the end; the rows of metrics.jsonl."""
    folder = start_training(servers, name, **settings)
    try:
        servers[1].wait("trainer")
    finally:
        if "trainer" in servers[1].running:
            servers[1].stop("trainer")
    return rows(folder)


def rows(folder: RunFolder) -> list[dict]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()] if folder.metrics.exists() else []


def wait_for_steps(servers: tuple[Config, Launcher], folder: RunFolder, steps: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while len(rows(folder)) < steps:
        servers[1].check()
        assert time.monotonic() < deadline, f"no {steps} steps within {LIMIT_S} s"
        time.sleep(0.2)


def contents(checkpoint: Path) -> dict[str, str]:
    """Checksums by file, but for the two in which torch writes a random id."""
    files = manifest.read(checkpoint)["files"]
    return {name: file["sha256"] for name, file in files.items() if name not in (".metadata", "common.pt")}


@pytest.fixture(scope="module")
def whole(servers) -> tuple[RunFolder, list[dict]]:
    """A run that nothing interrupts: its folder, and its metrics."""
    metrics = train(servers, "whole", steps=4, save_every=2)
    return RunFolder(Path(servers[0].run.dir) / "whole"), metrics


def test_every_rollout_comes_from_the_weights_of_its_step(whole):
    _, metrics = whole
    assert [row["weight_version"] for row in metrics] == [0, 1, 2, 3]
    assert all(row["logprob_difference_max"] <= 1e-4 for row in metrics)
    assert all(row["token_mult_prob_error"] < 1 + 1e-5 for row in metrics)
    assert metrics[0]["grad_norm"] > 0


def test_resumed_run_passes_a_damaged_checkpoint_over_and_repeats_the_uninterrupted_one(servers, whole):
    folder, metrics = whole
    parts = folder.root.with_name("parts")  # as it was when the checkpoint of step 2 was the newest
    shutil.copytree(folder.checkpoints / "step_2", parts / "checkpoints" / "step_2")
    shutil.copytree(folder.checkpoints / "step_4", parts / "checkpoints" / "step_3")
    (parts / "checkpoints" / "step_3" / "common.pt").unlink()
    shutil.copy(folder.metrics, parts)
    resumed = train(servers, "parts", steps=4, save_every=2)
    assert resumed[2].pop("damaged_checkpoints") == 1
    assert [timeless(row) for row in resumed] == [timeless(row) for row in metrics]
    assert (parts / "DONE").exists()
    # Bit for bit: weights, optimizer, random states, data order. Two checkpoints of one run differ.
    end = contents(folder.checkpoints / "step_4")
    assert contents(parts / "checkpoints" / "step_4") == end
    before = contents(folder.checkpoints / "step_2")
    assert before.keys() == end.keys()
    assert any(before[name] != end[name] for name in end if name.endswith(".distcp"))


def part_of(whole: RunFolder, name: str) -> RunFolder:
    """A run as `whole` was after step 2."""
    folder = RunFolder(whole.root.with_name(name))
    shutil.copytree(whole.checkpoints / "step_2", folder.checkpoints / "step_2")
    return folder


def test_a_resumed_run_takes_another_schedule_and_length_and_says_so(servers, whole):
    cfg, launcher = servers
    folder = part_of(whole[0], "longer")
    other = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, lr=1e-3, min_lr=1e-5, schedule="cosine"))
    folder.done.touch()  # of a run of 2 steps
    train((other, launcher), "longer", steps=6, save_every=3)
    rates = [row["lr"] for row in rows(folder)]
    assert rates == pytest.approx([1e-5 + 99e-5 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(3, 7)])
    said = launcher.log_of("trainer").read_text()
    assert "another optim.lr (0.0003 in the checkpoint, 0.001 now): the new value is taken" in said
    assert "another grpo.steps (4 in the checkpoint, 6 now): the new value is taken" in said


def test_a_resume_with_other_questions_or_another_method_is_refused_unless_it_is_asked_for(servers, whole, tmp_path):
    folder = part_of(whole[0], "others")
    questions = [dataclasses.replace(question, stem=f"New: {question.stem}") for question in embedded_bank(64, 0)[0]]
    write_questions(questions[:40], tmp_path / "others.jsonl")
    changes = {"questions": str(tmp_path / "others.jsonl"), "kl_coef": 0.01}
    with pytest.raises(ComponentError, match=r"(?s)step_2 was trained with another grpo.kl_coef .*grpo.questions"):
        train(servers, "others", steps=4, **changes)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step_2"] and rows(folder) == []
    resumed = train(servers, "others", steps=4, accept=["grpo.kl_coef", "grpo.questions"], **changes)
    assert [row["step"] for row in resumed] == [3, 4]
    samples = [json.loads(line) for line in (folder.samples / "step_4.jsonl").read_text().splitlines()]
    assert all(sample["question"].startswith("New: ") for sample in samples)


def test_request_to_stop_saves_at_a_step_boundary(servers):
    folder = start_training(servers, "stopped", steps=500, save_every=500)
    wait_for_steps(servers, folder, 1)
    servers[1].stop("trainer")  # SIGTERM, as a preempted job gets it
    stopped_at = rows(folder)[-1]["step"]
    assert stopped_at < 500
    assert [path.name for path in folder.checkpoints.iterdir()] == [f"step_{stopped_at}"]
    assert not folder.done.exists()


def test_gate_stops_the_run_with_its_reason(servers):
    with pytest.raises(ComponentError, match="max_logprob_difference") as found:
        train(servers, "gate", steps=2, max_logprob_difference=1e-12)
    assert "\n" not in str(found.value)


def test_an_update_that_makes_a_weight_nan_on_the_last_step_is_neither_saved_nor_served(servers):
    """AdamW with eps 0 divides 0 by 0 at tokens that did not occur; loss and gradients are finite."""
    with pytest.raises(ComponentError, match="embedding.word_embeddings.weight is NaN or infinite"):
        train(servers, "nan", steps=1, optim={"eps": 0.0})
    log = servers[1].logs / "trainer.log"
    said = "step 1, update: the weight embedding.word_embeddings.weight is NaN or infinite. Nothing of it is kept"
    lines = [line for line in log.read_text().splitlines() if said in line and " rank " in line]
    assert {line.split(" rank ")[1].split()[0] for line in lines} == {"0", "1", "2", "3"}
    assert all("Last good checkpoint: none yet, the run started from" in line for line in lines)
    folder = RunFolder(Path(servers[0].run.dir) / "nan")
    assert rows(folder) == [] and not folder.checkpoints.exists() and not folder.done.exists()


def test_stale_weights_under_a_new_version_are_found_before_anything_is_sampled(servers):
    stale = "tests.integration.stale_worker"
    with pytest.raises(
        ComponentError, match=r"weight version 1\) differs from the trainer by .* it holds other weights"
    ):
        train(servers, "stale_checked", worker=stale, steps=5)
    assert rows(RunFolder(Path(servers[0].run.dir) / "stale_checked")) == []


@pytest.mark.nightly
def test_stale_weights_under_a_new_version_stop_the_run_within_one_step_if_refits_are_not_checked(servers):
    stale = "tests.integration.stale_worker"
    with pytest.raises(ComponentError, match="step 1: logprob_difference_mean is .* that rounding explains"):
        train(servers, "stale", worker=stale, check=False, steps=5)
    folder = RunFolder(Path(servers[0].run.dir) / "stale")
    assert [row["step"] for row in rows(folder)] == [1]  # on the base weights, which both sides had


def test_killed_rank_ends_the_trainer_and_is_named(servers):
    folder = start_training(servers, "killed", steps=500)
    wait_for_steps(servers, folder, 1)
    process = servers[1].running["trainer"].process
    workers = [pid for pid in descendants(process.pid) if b"grpo.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(max(workers), signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(ComponentError, match="trainer ended"):
        servers[1].wait("trainer")
    assert time.monotonic() - started < 60
    servers[1].stop("trainer")


@pytest.mark.nightly
def test_a_rank_killed_right_after_a_save_leaves_no_gap_in_the_metrics(servers, whole):
    _, metrics = whole
    with pytest.raises(ComponentError, match="trainer ended"):
        train(servers, "saved", worker="tests.integration.killed_saver", steps=4, save_every=2)
    assert [timeless(row) for row in train(servers, "saved", steps=4, save_every=2)] == [
        timeless(row) for row in metrics
    ]


def test_training_again_on_what_a_run_kept_gives_its_weights(servers, whole):
    folder, metrics = whole
    replayed = train(servers, "replayed", steps=4, save_every=2, replay=str(folder.root))
    assert [timeless(row) for row in replayed] == [timeless(row) for row in metrics]
    again, first = (
        contents(root / "checkpoints" / "step_4") for root in (folder.root.with_name("replayed"), folder.root)
    )
    assert again.pop("state.json") != first.pop("state.json")  # which says what was trained on
    assert again == first


@pytest.mark.nightly
def test_a_run_killed_in_a_validation_trains_and_validates_as_one_that_was_not(servers, whole, tmp_path):
    """Nor does a validation change what is trained."""
    write_questions(embedded_bank(0, 0, n_development=24)[2], tmp_path / "validation.jsonl")
    asked = {"every": 2, "questions": [str(tmp_path / "validation.jsonl")], "samples": 2}
    settings = {"steps": 4, "save_every": 1, "validate": asked}
    with pytest.raises(ComponentError, match="trainer ended"):
        train(servers, "cut", worker="tests.integration.killed_validator", **settings)
    resumed, undisturbed = train(servers, "cut", **settings), train(servers, "uncut", **settings)
    assert [timeless(row) for row in resumed] == [timeless(row) for row in undisturbed]
    assert [row["step"] for row in resumed if "validation/accuracy" in row] == [0, 2, 4]
    trained = [timeless(row) for row in resumed if "reward/mean" in row]
    assert trained == [timeless(row) for row in whole[1]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for two checkpoints of 17 MB."""
    with mounted(tmp_path, megabytes=44):
        yield tmp_path


def test_a_full_disk_ends_the_run_with_a_clear_error_and_with_more_room_it_goes_on(servers, whole, small_disk):
    _, metrics = whole
    folder = RunFolder(small_disk / "full")
    why = r"trainer ended with status 1: .*/step_3: not written: .*No space left on device.*Older checkpoints are"
    with pytest.raises(ComponentError, match=why) as found:
        train(servers, str(folder.root), steps=4, save_every=1)
    assert "\n" not in str(found.value)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step_1", "step_2"]
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    resumed = train(servers, str(folder.root), steps=4, save_every=1)
    assert [timeless(row) for row in resumed] == [timeless(row) for row in metrics]


def sockets_of(pid: int) -> Path:
    """Where a vLLM server has its sockets."""
    variables = dict(word.partition("=")[::2] for word in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return Path(variables["VLLM_RPC_BASE_PATH"])


def test_a_killed_rollout_server_is_replaced_and_nothing_is_lost(servers, whole):
    _, metrics = whole
    folder = start_training(servers, "new-vllm", steps=4, save_every=4)
    wait_for_steps(servers, folder, 1)
    # The engine alone, the last that was started: the HTTP front stays, and says that it is not well.
    front, *_, engine = sorted(descendants(servers[1].running["vllm"].process.pid))
    sockets = sockets_of(front)
    assert any(path.is_socket() for path in sockets.iterdir())
    os.kill(engine, signal.SIGKILL)
    servers[1].wait("trainer")
    assert servers[1].restarted["vllm"] == 1 and not sockets.exists()
    assert [timeless(row) for row in rows(folder)] == [timeless(row) for row in metrics]


@pytest.mark.nightly
def test_a_rollout_server_whose_engine_hangs_is_replaced_and_nothing_is_lost(servers, whole):
    _, metrics = whole
    restarted = servers[1].restarted["vllm"]
    folder = start_training(servers, "hanging-vllm", steps=4, save_every=4)
    wait_for_steps(servers, folder, 1)
    os.kill(max(descendants(servers[1].running["vllm"].process.pid)), signal.SIGSTOP)
    servers[1].wait("trainer")
    assert servers[1].restarted["vllm"] == restarted + 1
    assert [timeless(row) for row in rows(folder)] == [timeless(row) for row in metrics]


def weights(checkpoint: Path) -> dict[str, str]:
    return {name: checksum for name, checksum in contents(checkpoint).items() if name.endswith(".distcp")}


@pytest.mark.nightly
def test_a_run_on_two_servers_of_which_one_is_killed_is_the_run_on_one(servers, whole, tmp_path):
    cfg, launcher = servers
    folder, metrics = whole
    two = dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, servers=2, urls=[]))
    with Launcher(tmp_path / "servers") as its_servers:
        start_servers(two, its_servers, two.model.path)
        wait_ready(its_servers)
        own = start_training((two, launcher), "two", steps=4, save_every=4)
        wait_for_steps((two, launcher), own, 1)
        for pid in descendants(its_servers.running["vllm-1"].process.pid):
            os.kill(pid, signal.SIGKILL)
        launcher.wait("trainer", its_servers.check)
        assert its_servers.restarted == {"vllm-1": 1}
    found, expected = [timeless(row) for row in rows(own)], [timeless(row) for row in metrics]
    assert [row.pop("rollout_servers") for row in expected] == [1] * 4
    assert [row.pop("rollout_servers") for row in found][0] == 2
    assert found == expected
    assert weights(own.checkpoints / "step_4") == weights(folder.checkpoints / "step_4")


def test_a_run_with_a_reward_and_a_loss_of_its_own(servers, tmp_path):
    """Both by the example's files; the samples' text gives each reward once more, by hand."""
    cfg, launcher = servers
    place, weights = "examples/format_reward.py:format_reward", [1.0, 0.25]
    reward = dataclasses.replace(cfg.reward, url="", functions=["correct", place], weights=weights)
    own = dataclasses.replace(cfg, reward=reward)
    with Launcher(tmp_path / "servers") as its_server:
        start_servers(own, its_server, own.model.path)
        wait_ready(its_server)
        loss = "examples/sapo_loss.py:sapo_loss"
        metrics = train((own, launcher), "own", steps=2, save_every=2, loss=loss, updates_per_batch=2)
    assert len(metrics) == 2
    for row in metrics:
        assert row["reward/mean"] == pytest.approx(row["reward/correct"] + 0.25 * row["reward/format_reward"])
        parts = row["reward/format_reward/reasons"] + row["reward/format_reward/one_box"]
        assert row["reward/format_reward"] == pytest.approx(parts)
        assert row["grad_norm"] > 0 and "ratio/clipped_low" not in row
    samples = [json.loads(line) for line in (Path(cfg.run.dir) / "own/samples/step_1.jsonl").read_text().splitlines()]
    assert {sample["reward"] for sample in samples} & {0.125, 0.25, 1.125, 1.25}
    for sample in samples:
        right = float(sample["extracted"] == sample["answer"])
        assert sample["parts"]["correct"] == right
        assert sample["reward"] == pytest.approx(right + 0.25 * sample["parts"]["format_reward"])
    state = json.loads((Path(cfg.run.dir) / "own/checkpoints/step_2/state.json").read_text())
    assert state["reward"] == pytest.approx(sum(row["reward/mean"] for row in metrics) / 2)
