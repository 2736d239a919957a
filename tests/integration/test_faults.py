"""Every fault of the table, at its point, in runs that are then what an undisturbed run is, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.launch.child import processes_with
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import start_servers, wait_ready
from tests.integration.conftest import mounted
from tests.integration.faults import (
    SAVE_EVERY,
    Fault,
    Struck,
    check_whole,
    cut_the_newest_checkpoint_off,
    empty_the_newest_manifest,
    flip_a_byte_of_the_newest_checkpoint,
    leaked_segments,
    of_recipe,
    record,
    settings,
    start_recipe,
    tear_the_last_row_of_metrics,
    until,
    words,
)
from tests.integration.held import REWARD, Points

KILLED_AT = ("update", "refit", "sampling", "scoring", "samples", "metrics", "save", "publish", "saved", "load")
STOPPED_AT = ("update", "refit", "sampling", "scoring", "metrics", "save", "load")
SERVERS_AT = ("sampling", "refit", "scoring", "save")
WITH_AN_OLDER_CHECKPOINT = SAVE_EVERY + 1  # a run whose only checkpoint is damaged ends
TABLE = {
    "damage": [
        Fault("rank 0", "killed", "saved", flip_a_byte_of_the_newest_checkpoint, WITH_AN_OLDER_CHECKPOINT),
        Fault("rank 1", "killed", "saved", cut_the_newest_checkpoint_off, WITH_AN_OLDER_CHECKPOINT),
        Fault("rank 0", "killed", "saved", empty_the_newest_manifest, WITH_AN_OLDER_CHECKPOINT),
        Fault("rank 0", "killed", "metrics", then=tear_the_last_row_of_metrics),
    ],
    "rank 0 killed": [*(Fault("rank 0", "killed", point) for point in (*KILLED_AT, "done"))],
    "reward": [
        Fault("reward", what, point) for what in ("killed", "stopped") for point in ("scoring", "sampling", "save")
    ],
    "engine killed": [
        *(Fault("engine", "killed", point) for point in SERVERS_AT),
        Fault("engine and reward", "killed", "scoring"),
        Fault("rank 0 and engine", "killed", "save"),
    ],
    "rank 1 killed": [
        *(Fault("rank 1", "killed", point) for point in KILLED_AT),
        Fault("ranks' parent", "killed", "save"),
        Fault("trainer's wrapper", "killed", "sampling"),
    ],
    "vllm killed": [
        *(Fault("vllm", "killed", point) for point in SERVERS_AT),
        Fault("vllm's wrapper", "killed", "sampling"),
        Fault("rank 1 and vllm", "killed", "refit"),
    ],
    "rank 0 stopped": [
        *(Fault("rank 0", "stopped", point) for point in STOPPED_AT),
        Fault("ranks' parent", "stopped", "save"),
    ],
    "rank 1 stopped": [
        *(Fault("rank 1", "stopped", point) for point in STOPPED_AT),
        Fault("trainer's wrapper", "stopped", "sampling"),
    ],
    "engine and vllm stopped": [
        Fault(victim, "stopped", point) for victim in ("engine", "vllm") for point in ("sampling", "refit", "save")
    ],
}
FULL = [Fault("disk", "full", point) for point in ("save", "samples", "metrics")]
OF_THE_LAUNCHER = [("start", "refit", "scoring"), ("sampling", "save", "metrics")]


@dataclass
class World:
    """What all runs of this file share."""

    folder: Path
    questions: Path
    points: Points


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A temporary folder of its own for everything that is started, and at the end nothing of it is left."""
    folder, begun = tmp_path_factory.mktemp("faults"), time.time()
    write_questions(embedded_bank(64, 0)[0], folder / "train.jsonl")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp") as short:
        patch.setenv("TMPDIR", short)
        patch.setattr(tempfile, "tempdir", None)
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))  # whoever imports torch._inductor makes it
        points = Points(folder / "points")
        yield World(folder, folder / "train.jsonl", points)
        assert processes_with(points.variable) == []
        assert [path.name for path in Path(short).iterdir()] == []
        assert leaked_segments(since=begun) == []


@pytest.fixture(scope="module")
def servers(world: World) -> Iterator[tuple[Launcher, Config]]:
    """The servers of all runs but those that bring a launcher of their own, and their URLs and keys."""
    cfg = settings(world.folder, "servers", world.questions)
    with Launcher(world.folder / "servers") as launcher:
        start_servers(cfg, launcher, cfg.model.path)
        wait_ready(launcher)
        yield launcher, cfg


def struck(world: World, servers: tuple[Launcher, Config], folder: Path, name: str, faults: list[Fault]) -> RunFolder:
    """A run that has survived the faults."""
    launcher, known = servers
    cfg = settings(folder, name, world.questions)
    cfg.rollout.urls, cfg.rollout.api_key = known.rollout.urls, known.rollout.api_key
    cfg.reward.url, cfg.reward.api_key = known.reward.url, known.reward.api_key
    run = Struck(cfg, launcher, world.points, folder if faults == FULL else None)
    run.survive(faults)
    return run.run


@pytest.fixture(scope="module")
def undisturbed(world: World, servers: tuple[Launcher, Config]) -> dict[str, object]:
    return record(struck(world, servers, world.folder, "undisturbed", []))


def compare(run: RunFolder, undisturbed: dict[str, object]) -> None:
    for part, value in record(run).items():
        assert value == undisturbed[part], part


@pytest.mark.nightly
@pytest.mark.parametrize("name", TABLE)
def test_a_run_under_faults_is_the_undisturbed_one(world, servers, undisturbed, name: str) -> None:
    run = struck(world, servers, world.folder, name.replace(" ", "-"), TABLE[name])
    check_whole(run, damaged=sum("checkpoint" in str(fault) or "manifest" in str(fault) for fault in TABLE[name]))
    compare(run, undisturbed)


@pytest.mark.nightly
def test_a_run_on_a_disk_that_fills_up_is_the_undisturbed_one(world, servers, undisturbed, tmp_path: Path) -> None:
    with mounted(tmp_path, megabytes=200):
        run = struck(world, servers, tmp_path, "full", FULL)
        check_whole(run)
        compare(run, undisturbed)


@pytest.mark.nightly
@pytest.mark.parametrize("points", OF_THE_LAUNCHER, ids="-".join)
def test_a_killed_launcher_leaves_no_process_and_the_next_start_resumes_though_it_is_stopped(
    world, undisturbed, points: tuple[str, ...], tmp_path: Path
) -> None:
    """While it runs, and while a trainer outlives it, another start ends with status 2 and names who is there."""
    name = "-".join(points)
    log, asked = tmp_path / "recipe.log", words(world.folder, name, world.questions)
    run = RunFolder(world.folder / name)
    for point in points:
        started = time.monotonic()
        recipe = start_and_wait(world, run, point, asked, log)
        assert recipe.poll() is None, log.read_text()
        if point == points[-1]:
            assert refused(asked, tmp_path) == "train_grpo"
        os.kill(recipe.pid, signal.SIGKILL)
        recipe.wait()
        if point == points[-1]:
            assert refused(asked, tmp_path) == "trainer"
        world.points.release()
        until(lambda: not of_recipe(log), "end of all processes")
        print(f"{time.monotonic() - started:6.1f} s  launcher killed at {point}", flush=True)
    last, stopped = start_and_wait(world, run, "update", asked, log), time.monotonic()
    os.kill(last.pid, signal.SIGSTOP)  # its components continue it
    world.points.release()
    assert last.wait(240) == 0, log.read_text()
    print(f"{time.monotonic() - stopped:6.1f} s  launcher stopped at update", flush=True)
    check_whole(run)
    compare(run, undisturbed)


def start_and_wait(world: World, run: RunFolder, point: str, asked: list[str], log: Path) -> subprocess.Popen:
    """A launcher whose run stands at the point, or whose servers come up."""
    world.points.arm(point)
    recipe, who = start_recipe(asked, log), REWARD if point == "scoring" else "rank 0"

    def reached() -> bool:
        return (run.logs / "vllm.log").exists() if point == "start" else world.points.is_reached_by(who)

    until(lambda: reached() or recipe.poll() is not None, f"{who} at {point}")
    return recipe


@pytest.mark.nightly
def test_a_killed_report_leaves_no_page_or_the_last_one_and_the_next_is_whole(world, undisturbed, tmp_path) -> None:
    run, log = RunFolder(world.folder / "undisturbed"), tmp_path / "report.log"
    asked = [f"run.dir={run.root.parent}", f"run.name={run.root.name}"]
    pages = []
    for _ in range(2):
        world.points.arm("report")
        report = start_recipe(asked, log, "held_report")
        until(lambda: world.points.is_reached_by("report"), "page that is being written")
        report.kill()
        report.wait()
        world.points.release()
        pages.append(run.report.read_text() if run.report.exists() else "")
        assert start_recipe(asked, log, "held_report").wait(120) == 0, log.read_text()
        pages.append(run.report.read_text())
    assert pages[0] == "" and pages[1].endswith("</html>") and pages[1] == pages[2] == pages[3]


def refused(asked: list[str], folder: Path) -> str:
    """Which program another start says is there; it ends with status 2."""
    log = folder / "second.log"
    log.unlink(missing_ok=True)
    assert start_recipe(asked, log).wait(60) == 2, log.read_text()
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    return line.partition(" is in use by ")[2].partition(" on ")[0]
