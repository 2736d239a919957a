"""Grading: responses per second on one core for extraction, and through the reward server."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from alphamed_nemo.answers.protocols import extract_answer
from alphamed_nemo.config import Config
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.engine import score_saved
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import reward_client
from alphamed_nemo.rewards.score import RewardItem
from benchmarks.measure import Row
from benchmarks.responses import OPTIONS, boxed, hostile, mixed

SHORT, LONG, HOSTILE = 300, 8_000, 1_000_000  # characters


def per_second(work: Callable[[], object], count: int, repeats: int) -> list[float]:
    """Of this process's CPU time, so of one core."""
    work()
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(count / (time.process_time() - started))
    return found


def measure_reward(repeats: int) -> list[Row]:
    short, long, mix = boxed(20_000, SHORT), boxed(5_000, LONG), mixed(10_000)

    def extract(texts: list[str], protocol: str) -> Callable[[], None]:
        def work() -> None:
            for text in texts:
                extract_answer(text, OPTIONS, protocol)

        return work

    rows = [
        Row(
            "extraction, boxed, 300 characters",
            "responses/s",
            per_second(extract(short, "boxed"), len(short), repeats),
            "300,000",
        ),
        Row(
            "extraction, boxed, 8,000 characters", "responses/s", per_second(extract(long, "boxed"), len(long), repeats)
        ),
        Row(
            "extraction, lenient, 100 to 2,000 characters",
            "responses/s",
            per_second(extract(mix, "lenient"), len(mix), repeats),
        ),
        Row("saved responses scored with lenient, file to file", "responses/s", _saved(mix, repeats), "50,000"),
    ]
    for protocol in ("boxed", "lenient"):
        rows.append(_hostile(protocol, repeats))
    return [*rows, *_server({"300": short, "8,000": long}, repeats)]


def _saved(texts: list[str], repeats: int) -> list[float]:
    """The whole of `evaluate.responses`: reading, grading, statistics, writing."""
    questions = [Question(f"q{i}", "set", "Which one?", OPTIONS, "ABCD"[i % 4]) for i in range(len(texts))]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "responses.jsonl"
        lines = (json.dumps({"id": f"q{i}", "response": text}) + "\n" for i, text in enumerate(texts))
        path.write_text("".join(lines))
        return per_second(
            lambda: score_saved(questions, path, "lenient", "saved", Path(name) / "out.json"), len(texts), repeats
        )


def _hostile(protocol: str, repeats: int) -> Row:
    """How much longer four times the length takes, at worst; 4 is linear."""
    worst = []
    for _ in range(repeats):
        ratios = []
        for short, long in zip(hostile(HOSTILE).values(), hostile(4 * HOSTILE).values(), strict=True):
            seconds = []
            for text in (short, long):
                started = time.process_time()
                extract_answer(text, OPTIONS, protocol)
                seconds.append(time.process_time() - started)
            # Below a tenth of a millisecond a response is not read to its end at all.
            ratios.append(seconds[1] / max(seconds[0], 1e-4))
        worst.append(max(ratios))
    return Row(f"extraction, {protocol}, hostile: time of 4 MB over that of 1 MB", "×", worst, "about 4, or less")


def _server(texts: dict[str, list[str]], repeats: int) -> list[Row]:
    """Wall time on all cores, and the processor time of client and server, which other work hardly changes."""
    rows = []
    with tempfile.TemporaryDirectory() as name, Launcher(Path(name)) as launcher:
        client = reward_client(Config(), launcher)
        server = psutil.Process(launcher.running["reward"].process.pid).children()

        def processor_s() -> float:
            return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in server)

        for size, responses in texts.items():
            items = [RewardItem(response=text, answer="A", options=OPTIONS) for text in responses]
            client.score(items[:1000])
            wall, processor = [], []
            for _ in range(repeats):
                started, used = time.perf_counter(), processor_s()
                client.score(items)
                wall.append(len(items) / (time.perf_counter() - started))
                processor.append(len(items) / (processor_s() - used))
            what, unit, target = f"reward server, {size} characters", "responses/s", "20,000" if size == "300" else ""
            rows.append(Row(what, unit, wall, target, "client and server"))
            rows.append(Row(f"{what}: processor time", unit, processor, "", "client's and server's together"))
    return rows
