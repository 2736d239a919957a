"""Faults at known points of a run: what strikes which process where, and what a run has to be after all of them.

The processes of the run stand still at the point (`held`) while the fault strikes, so that it hits there, not near it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.cli.recipe import composed
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config, write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.errors import ComponentError
from alphamed_nemo.launch.child import SEGMENT, SHARED_MEMORY, descendants, processes_with, segments_in_use
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.policy.checkpoint import manifest
from tests.integration.held import REWARD, Points
from tests.integration.held_recipe import held_trainer
from tests.metrics_rows import timeless

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "alphamed_nemo" / "assets" / "tiny_base"
STEPS, SAVE_EVERY = 12, 2
RECIPE = "RECIPE_LOG"  # variable of all that a recipe starts
POLL_S = 0.005
LIMIT_S = 240.0  # for what should take seconds
EACH_RANK = ("load", "update", "save")  # points that all ranks come to; the others are rank 0's

# victim → component, and what the command line of the process has
PROCESSES = {
    "rank 0": ("trainer", b"held_worker rank 0 "),
    "rank 1": ("trainer", b"held_worker rank 1 "),
    "ranks' parent": ("trainer", b"alphamed_nemo.launch.ranks"),
    "trainer's wrapper": ("trainer", b""),
    "vllm": ("vllm", b"inside_vllm.main"),
    "engine": ("vllm", b"EngineCore"),
    "vllm's wrapper": ("vllm", b""),
    "reward": ("reward", b"rewards.server"),
}
# what happens → how the trainer ends, where it does
ENDS = {
    "killed": "trainer ended ",
    "stopped": r"process \d+,? has been stopped \(SIGSTOP\)",
    "full": r"^trainer ended with status 1: .*No space left on device.*\Z",  # in one line
}


@dataclass(frozen=True)
class Fault:
    """What strikes a run.

    Attributes:
        victim: of PROCESSES, several joined by " and "; `disk` is the one that the run is on.
        what: killed (SIGKILL), stopped (SIGSTOP), full (the disk).
        point: of `held`.
        then: what else happens to the run folder before anything is started again.
        after_step: the fault waits until metrics.jsonl has this step.
    """

    victim: str
    what: str
    point: str
    then: Callable[[RunFolder], None] | None = None
    after_step: int = 0

    def __str__(self) -> str:
        also = f", {self.then.__name__.replace('_', ' ')}" if self.then else ""
        return f"{self.victim} {self.what} at {self.point}{also}"

    @property
    def ends_the_trainer(self) -> bool:
        return "rank" in self.victim or "trainer" in self.victim or self.victim == "disk"


def newest_checkpoint(run: RunFolder) -> Path:
    return manifest.checkpoints_in(run.checkpoints)[-1]


def flip_a_byte_of_the_newest_checkpoint(run: RunFolder) -> None:
    path = max(newest_checkpoint(run).glob("*.distcp"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_the_newest_checkpoint_off(run: RunFolder) -> None:
    path = min(newest_checkpoint(run).glob("*.distcp"))
    path.write_bytes(path.read_bytes()[:-1])


def empty_the_newest_manifest(run: RunFolder) -> None:
    (newest_checkpoint(run) / manifest.NAME).write_text("{}")


def tear_the_last_row_of_metrics(run: RunFolder) -> None:
    """As a lost node leaves it."""
    content = run.metrics.read_bytes()
    run.metrics.write_bytes(content[: content.rfind(b"\n", 0, -1) + 40])


def words(folder: Path, name: str, questions: Path) -> list[str]:
    """Settings of a run: two ranks, a pipeline; weights that change to the last step; surplus groups that are carried
    from step to step."""
    return [
        f"run.dir={folder}",
        f"run.name={name}",
        "run.server_restarts=1000",
        "run.hang_timeout_s=5",
        "run.component_timeout_s=1800",
        f"model.path={BASE}",
        "model.dtype=float32",
        "model.max_length=192",
        "rollout.dtype=float32",
        "rollout.max_new_tokens=48",
        "rollout.memory_gb=0.1",
        "rollout.request_timeout_s=30",
        "data.prompt=tiny",
        "parallel.pipeline=2",
        "optim.lr=3e-5",
        f"reward.functions=[correct,{ROOT}/tests/integration/held.py:held_reward]",
        "reward.request_timeout_s=5",
        "reward.retries=20",
        f"grpo.questions={questions}",
        f"grpo.steps={STEPS}",
        f"grpo.save_every={SAVE_EVERY}",
        "grpo.questions_per_step=4",
        "grpo.samples_per_question=4",
        "grpo.tokens_per_microbatch=2048",
        "grpo.dynamic_sampling=true",
        "grpo.max_sampling_rounds=100",
    ]


def settings(folder: Path, name: str, questions: Path) -> Config:
    return fill_derived(composed("train_grpo", words(folder, name, questions)))


def processes_of(launcher: Launcher, victim: str) -> list[int]:
    component, needle = PROCESSES[victim]
    running = launcher.running.get(component)
    if running is None:
        return []
    if not needle:
        return [running.process.pid]
    found = []
    for pid in descendants(running.process.pid):
        try:
            if needle in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@dataclass
class Survived:
    """How a run came through a fault.

    Attributes:
        found_s: seconds until the launcher knew of it.
        on_s: until the trainer was started again, or had recorded another step.
        attempt: the start of the trainer that went on; None: it never ended.
    """

    fault: Fault
    found_s: float
    on_s: float
    attempt: int | None

    def described(self, resumed: list[str]) -> str:
        """A row of a Markdown table.

        Args:
            resumed: where each start went on.
        """
        went_on = resumed[self.attempt] if self.attempt is not None and self.attempt < len(resumed) else "-"
        return f"| {self.fault} | {self.found_s:.1f} | {self.on_s:.1f} | {went_on} |"


class Struck:
    """A run whose trainer is started again and again, while faults strike it and its servers, one after the other.

    Args:
        cfg: the run; the servers' URLs are filled.
        launcher: runs the servers.
        points: where processes stand still.
        small_disk: the disk that the run is on, to be filled; None: no fault needs one.
    """

    def __init__(self, cfg: Config, launcher: Launcher, points: Points, small_disk: Path | None = None) -> None:
        self.cfg, self.launcher, self.points = cfg, launcher, points
        self.run = RunFolder.of(cfg)
        self.filler = small_disk / "filler" if small_disk is not None else None
        self.starts = 0
        self.expected: list[str] = []  # how the trainer ends, of each fault that ends it
        self.ended: list[float] = []  # when it did
        self.resumed: list[str] = []  # where each start of it goes on; -: struck before it had loaded
        self.survived: list[Survived] = []
        self.over = False

    def survive(self, faults: list[Fault]) -> None:
        """Trains to the end with all of them on the way."""
        write_config(self.cfg, self.run.config)
        striking: Future[None] = Future()
        striker = threading.Thread(target=self._strike_all, args=(faults, striking), daemon=True)
        striker.start()
        try:
            self._train(striking)
            striking.result(timeout=LIMIT_S)
            assert len(self.survived) == len(faults)
            assert len(self.ended) == len(self.expected)
        finally:  # a run that did not survive leaves the servers as they are to the next one
            self.over = True
            self.points.release()
            if "trainer" in self.launcher.running:
                self.launcher.stop("trainer")
            striker.join()
            print(*(each.described(self.resumed) for each in self.survived), sep="\n", flush=True)

    def _train(self, striking: Future[None]) -> None:
        """Starts the trainer again and again, until it has ended well."""
        log = self.launcher.log_of("trainer")
        while True:
            if self.filler is not None:
                self.filler.unlink(missing_ok=True)
            begun = log.stat().st_size if log.exists() else 0
            self.launcher.start(held_trainer(self.cfg))
            self.starts += 1
            try:
                self.launcher.wait("trainer", lambda: self._fail_with(striking))
                return
            except ComponentError as error:
                self.ended.append(time.monotonic())
                assert len(self.ended) <= len(self.expected), f"the trainer ended without a fault: {error}"
                assert re.search(self.expected[len(self.ended) - 1], str(error)), str(error)
                self.launcher.stop("trainer")
            finally:
                said = log.read_bytes()[begun:]
                resumed = re.search(rb"resumed from \S+ at step (\d+)", said)
                from_base = b"servers and policy differ by" in said
                self.resumed.append(f"step {int(resumed[1])}" if resumed else "step 0" if from_base else "-")

    @staticmethod
    def _fail_with(striking: Future[None]) -> None:
        if striking.done():
            striking.result()

    def _strike_all(self, faults: list[Fault], striking: Future[None]) -> None:
        try:
            for fault in faults:
                self.survived.append(self._strike(fault))
                print(f"{self.survived[-1].on_s:6.1f} s  {fault}", flush=True)
            striking.set_result(None)
        except BaseException as error:
            striking.set_exception(error)

    def _strike(self, fault: Fault) -> Survived:
        """Returns once the run has gone on."""
        victims = [] if fault.victim == "disk" else fault.victim.split(" and ")
        who = REWARD if fault.point == "scoring" else "rank 0"
        if fault.point in EACH_RANK and victims and victims[0] in ("rank 0", "rank 1"):
            who = victims[0]
        self._until(lambda: last_step(self.run) >= fault.after_step, f"step {fault.after_step} before {fault}")
        self.points.arm(fault.point)
        self._until(lambda: self.points.is_reached_by(who), f"{who} at {fault.point}")
        starts, restarted, step = self.starts, self.launcher.restarted.total(), last_step(self.run)
        found = [processes_of(self.launcher, victim) for victim in victims]
        assert all(found), f"{fault}: {found}"
        if fault.ends_the_trainer:
            self.expected.append(ENDS[fault.what])
        if fault.what == "full":
            assert self.filler is not None
            fill(self.filler)
        for pid in sum(found, []):
            os.kill(pid, signal.SIGKILL if fault.what == "killed" else signal.SIGSTOP)
        struck = time.monotonic()
        if fault.then is not None:
            fault.then(self.run)
        self.points.release()
        if fault.ends_the_trainer:
            self._until(lambda: self.starts > starts, f"another start after {fault}")
            found_s = self.ended[-1] - struck
        else:
            self._until(lambda: self.launcher.restarted.total() > restarted, f"restart after {fault}")
            found_s = time.monotonic() - struck
            self._until(lambda: last_step(self.run) > step or self.run.done.exists(), f"another step after {fault}")
        attempt = self.starts - 1 if fault.ends_the_trainer else None
        return Survived(fault, found_s, time.monotonic() - struck, attempt)

    def _until(self, happened: Callable[[], bool], what: str) -> None:
        def now() -> bool:
            assert not self.over, f"the run ended before {what}"
            return happened()

        until(now, what)


def until(happened: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline, f"no {what} within {limit_s:g} s"
        time.sleep(POLL_S)


def fill(path: Path) -> None:
    """Takes all that is left of a disk."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def last_step(run: RunFolder) -> int:
    """By metrics.jsonl; 0 where there is no whole line."""
    lines = run.metrics.read_bytes().split(b"\n")[:-1] if run.metrics.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def start_recipe(settings: list[str], log: Path, module: str = "held_recipe") -> subprocess.Popen:
    argv = [sys.executable, "-m", f"tests.integration.{module}", *settings]
    env = os.environ | {"PYTHONPATH": str(ROOT), RECIPE: str(log)}
    with log.open("ab") as file:
        return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=file, stderr=file)


def of_recipe(log: Path) -> list[int]:
    """All processes that recipes with this log have started, and they themselves."""
    return processes_with(f"{RECIPE}={log}")


def leaked_segments(since: float) -> list[str]:
    """Shared memory that was made since a time, by names as our libraries give them, and that nobody has open."""
    found = [(path.name, path.stat()) for path in SHARED_MEMORY.iterdir() if SEGMENT.match(path.name)]
    used = segments_in_use()  # after them: one that is made meanwhile is in use
    return [name for name, status in found if status.st_ino not in used and status.st_ctime >= since]


def record(run: RunFolder) -> dict[str, object]:
    """All that a run with faults shares with one without, bit for bit."""
    end = run.checkpoints / f"step_{STEPS}"
    files = manifest.read(end)["files"]
    events = EventAccumulator(str(run.root / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return {
        # without the two in which torch writes a random id
        "checkpoint": {name: file["sha256"] for name, file in files.items() if name not in (".metadata", "common.pt")},
        "metrics": [timeless(row, "damaged_checkpoints") for row in rows],
        "TensorBoard": [(event.step, event.value) for event in events.Scalars("reward/mean")],
        "samples": {path.name: path.read_bytes() for path in sorted(run.samples.iterdir())},
    }


def check_whole(run: RunFolder, damaged: int = 0) -> None:
    """Nothing twice, nothing missing, nothing left behind.

    Args:
        run: complete.
        damaged: checkpoints that were spoilt on the way.
    """
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert sum(row.get("damaged_checkpoints", 0) for row in rows) >= bool(damaged)
    assert run.done.exists()
    assert [path.name for path in run.checkpoints.iterdir() if not path.name.startswith("step_")] == []
    assert list(run.root.rglob(".*.part")) == []
    for path in (run.config, *run.attempts.glob("*")):
        load_config(path)
