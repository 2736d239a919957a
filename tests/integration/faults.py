"""One long run under random faults, compared step for step with the same run left alone. Not part of the test run.

python -m tests.integration.faults --faults 100

A fault comes after a random pause, wherever the step then is: kill -9 or SIGSTOP of vLLM's HTTP front, of its engine
or of the reward server; kill -9 of a rank, after which the trainer is started again and resumes. Most wait until the
last one is recovered and a step is done; one in five does not.
Prints what was tried, how often, and what differs from the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

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

BASE = Path(__file__).parents[2] / "alphamed_nemo" / "assets" / "tiny_base"
FAULTS = {  # weights
    "vllm killed": 3,
    "engine killed": 2,
    "vllm stopped": 1,
    "engine stopped": 1,
    "reward killed": 3,
    "reward stopped": 1,
    "rank killed": 2,
}
LONGEST_PAUSE_S = 3.0
PILED_UP = 0.2  # share of the faults that may come before the last one is recovered


def settings(folder: Path, name: str, steps: int) -> Config:
    cfg = Config()
    cfg.run.dir, cfg.run.name, cfg.run.loggers = str(folder), name, []
    cfg.run.server_restarts, cfg.run.hang_timeout_s = 10_000, 5.0
    cfg.model.path, cfg.model.max_length = str(BASE), 192
    cfg.rollout.max_new_tokens = 48
    cfg.data.prompt = "tiny"
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    cfg.parallel = ParallelConfig(tensor=2, pipeline=2)
    cfg.optim.lr = 3e-5  # slow, so that there is something to learn, and to lose, to the last step
    cfg.grpo.dynamic_sampling, cfg.grpo.max_sampling_rounds = True, 100
    cfg.rollout.request_timeout_s = 10.0
    cfg.reward.request_timeout_s, cfg.reward.retries = 5.0, 10
    cfg.grpo.steps, cfg.grpo.save_every, cfg.grpo.samples_kept = steps, 3, 0
    cfg.grpo.questions, cfg.grpo.questions_per_step, cfg.grpo.samples_per_question = str(folder / "train.jsonl"), 4, 4
    return cfg


def pids(launcher: Launcher, name: str, words: bytes) -> list[int]:
    """Processes of a component whose command line has `words`."""
    found = []
    for pid in descendants(launcher.running[name].process.pid):
        try:
            if words in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def inject(launcher: Launcher, fault: str, rng: random.Random) -> bool:
    """Whether there was something to strike."""
    component, _, what = fault.partition(" ")
    words = {"vllm": b"inside_vllm.main", "engine": b"EngineCore", "reward": b"rewards.server", "rank": b"grpo.worker"}
    owner = {"engine": "vllm", "rank": "trainer"}.get(component, component)
    targets = pids(launcher, owner, words[component]) if owner in launcher.running else []
    if component == "rank":
        targets = [pid for pid in targets if b" rank " in Path(f"/proc/{pid}/cmdline").read_bytes()]
    if not targets:
        return False
    os.kill(rng.choice(targets), signal.SIGSTOP if what == "stopped" else signal.SIGKILL)
    return True


def run(cfg: Config, faults: int, seed: int) -> tuple[list[dict], Counter[str]]:
    """Trains to the end, with faults on the way; rows of metrics.jsonl, and faults by kind."""
    rng, done, ended, folder = random.Random(seed), Counter(), 0, RunFolder.of(cfg)
    started = time.monotonic()
    with Launcher(folder.logs) as launcher:
        start_servers(cfg, launcher, cfg.model.path)
        wait_ready(launcher)
        write_config(cfg, folder.config)
        strike_at, wait_for = 0.0, 1  # a time, and a step

        def tick() -> None:
            nonlocal strike_at, wait_for
            step = last_step(folder)
            if step < wait_for:
                strike_at = time.monotonic() + rng.uniform(0, LONGEST_PAUSE_S)
            if done.total() >= faults or time.monotonic() < strike_at:
                return
            fault = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
            if all(each.ready for each in launcher.running.values()) and inject(launcher, fault, rng):
                done[fault] += 1
                print(f"{time.monotonic() - started:5.0f} s {done.total():4d} {fault} after step {step}", flush=True)
                wait_for = step + 1 if rng.random() > PILED_UP else 0
            strike_at = time.monotonic() + rng.uniform(0, LONGEST_PAUSE_S)

        while not folder.done.exists():
            launcher.start(trainer(cfg))
            try:
                launcher.wait("trainer", tick)
            except ComponentError as error:
                ended += 1
                if not str(error).startswith("trainer ended") or ended > done["rank killed"]:
                    raise
                launcher.stop("trainer")
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()], done


def last_step(folder: RunFolder) -> int:
    """By metrics.jsonl; 0 where there is no whole line."""
    lines = folder.metrics.read_text().splitlines() if folder.metrics.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def timeless(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith(("timing/", "throughput/"))}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--steps", type=int, default=0, help="0: one and a half a fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keeps both runs there; without it, nothing stays")
    asked = parser.parse_args()
    steps = asked.steps or asked.faults * 3 // 2
    with tempfile.TemporaryDirectory() as name:
        folder = asked.folder or Path(name)
        write_questions(embedded_bank(64, 0)[0], folder / "train.jsonl")
        started = time.monotonic()
        disturbed, done = run(settings(folder, "disturbed", steps), asked.faults, asked.seed)
        seconds = time.monotonic() - started
        print(f"disturbed: {len(disturbed)} steps in {seconds:.0f} s; {done.total()} faults: {dict(done)}", flush=True)
        started = time.monotonic()
        alone, _ = run(settings(folder, "alone", steps), 0, asked.seed)
        print(f"undisturbed: {len(alone)} steps in {time.monotonic() - started:.0f} s", flush=True)
    assert [row["step"] for row in disturbed] == list(range(1, steps + 1)), "a step is missing or there twice"
    different = [a["step"] for a, b in zip(alone, disturbed, strict=True) if timeless(a) != timeless(b)]
    print(f"steps that differ from the undisturbed run: {different or 'none'}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
