"""`./run bench [row ...]`: what the recipe costs on this machine, by row, with a table, a file and a figure.

step      one GRPO step by phase, float32 and bfloat16, one rank a core and TP 2 × PP 2
trl       the same step in TRL's GRPOTrainer, in turn with ours
real      a step of SmolLM2-135M, its time and memory, in turn with TRL's; half an hour
ceiling   the policy's training step beside its bare matrix products
refit     Megatron's shards to vLLM serving them, beside a copy of the bytes
exchange  what one driver takes of a large run's tokens, beside stand-in servers
reward    grading, alone and through the server
sampling  labelling and evaluation: share of the time in which vLLM works
scaling   the step against samples, response length, model size and cores

Without a row, all of them. Machine and versions are recorded with the numbers; nothing else should run meanwhile.
bfloat16 is left out where the processor has no instructions for it: a step would take about eight times as long.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import linear_regression, median

import psutil
import torch

from alphamed_nemo.config import Config, ParallelConfig
from alphamed_nemo.config.choices import Dtype
from alphamed_nemo.launch.components import KEEP_FREED_MEMORY, free_port, rollout_servers
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.processor import this_processor
from benchmarks import real_model
from benchmarks.exchange import measure_exchange
from benchmarks.figure import draw
from benchmarks.measure import Row, machine, table, write
from benchmarks.peers import measure_trl, trl_python, write_prompts
from benchmarks.real_model import peak_memory, smollm2
from benchmarks.refit import KEY
from benchmarks.reward import measure_reward
from benchmarks.sampling import measure_sampling
from benchmarks.step import measure_steps
from benchmarks.workload import Layout, model_folder, run_config

RESULTS = Path(__file__).resolve().parent / "results"
PROMPTS, SAMPLES, TOKENS = 16, 8, 64
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
SHARDED = Layout("TP 2 × PP 2", ParallelConfig(tensor=2, pipeline=2), 2)
ONE_RANK = Layout("one rank", ParallelConfig(), 1)
# Four ranks and vLLM with a billion parameters each take more than 24 GB.
REFITS: tuple[tuple[str, Dtype, tuple[Layout, ...]], ...] = (
    ("7M", "float32", (ONE_RANK, SHARDED)),
    ("135M", "float32", (ONE_RANK, SHARDED)),
    ("135M", "bfloat16", (ONE_RANK,)),
    ("1B", "bfloat16", (ONE_RANK,)),
)
REFIT_PARTS = ("source", "carrier", "load", "calls", "memcpy")
PHASES = ("generation", "reward", "old_logprobs", "training", "refit", "other")


class Bench:
    """Rows as methods.

    Args:
        folder: models and runs of this call; removed by the caller.
        kept: what is made once and used again: TRL's environment.
        repeats: of each figure, at least 5 for a result that is kept.
    """

    def __init__(self, folder: Path, kept: Path, repeats: int) -> None:
        self.folder, self.kept, self.repeats = folder, kept, repeats
        self.runs = 0
        self.cores = sorted(os.sched_getaffinity(0))
        self.dtypes: list[Dtype] = [dtype for dtype in DTYPES if dtype == "float32" or this_processor().has_bfloat16]
        self.best = Layout.one_a_core(len(self.cores))

    def config(
        self,
        dtype: Dtype,
        layout: Layout | None = None,
        model: str = "7M",
        samples: int = SAMPLES,
        tokens: int = TOKENS,
    ) -> Config:
        self.runs += 1
        path = model_folder(self.folder, model, dtype)
        layout = layout or self.best
        return run_config(self.folder, f"run{self.runs}", path, dtype, layout, PROMPTS, samples, tokens)

    def step(self) -> list[Row]:
        rows = []
        for dtype in self.dtypes:
            for layout in (self.best, SHARDED):
                found = measure_steps(self.config(dtype, layout), self.repeats)
                name = f"GRPO step, {dtype}, {layout.name}"
                rows.append(Row(name, "s", [step["step"] for step in found]))
                rows += [Row(f"{name}: {phase}", "s", [step[phase] for step in found]) for phase in PHASES]
                work = ("generation", "training")
                rest = [100 * (1 - sum(step[phase] for phase in work) / step["step"]) for step in found]
                rows.append(Row(f"{name}: all but generation and training", "% of the step", rest, "at most 5"))
        return rows

    def trl(self) -> list[Row]:
        """Whole runs in turn: ours, TRL's, ours, ..."""
        python = trl_python(self.kept, torch.__version__)
        prompts = write_prompts(self.folder / "prompts.json", PROMPTS)
        rows = []
        for dtype in self.dtypes:
            layouts = {self.best.name: self.best, SHARDED.name: SHARDED}
            ours: dict[str, list[float]] = {name: [] for name in layouts}
            theirs = []
            for _ in range(2):
                steps = math.ceil(self.repeats / 2)
                for name, layout in layouts.items():
                    ours[name] += [step["step"] for step in measure_steps(self.config(dtype, layout), steps)]
                theirs += measure_trl(
                    python, model_folder(self.folder, "7M", dtype), prompts, dtype, steps, SAMPLES, TOKENS
                )
            rows.append(Row(f"the same step in TRL, {dtype}", "s", theirs))
            for name, found in ours.items():
                rows.append(Row(f"our step in turn with it, {dtype}, {name}", "s", found))
                ratio = [one / median(theirs) for one in found]
                target = "at most 0.33" if name == self.best.name else ""
                note = "each over TRL's median"
                rows.append(Row(f"our step over TRL's, {dtype}, {name}", "×", ratio, target, note))
        return rows

    def real(self) -> list[Row]:
        """One rank, and one engine or one per core, in turn with TRL."""
        python, model = trl_python(self.kept, torch.__version__), smollm2()
        steps, rows = math.ceil(self.repeats / 2), []
        for dtype in self.dtypes:
            seconds: dict[str, list[float]] = defaultdict(list)
            memory: dict[str, list[float]] = defaultdict(list)
            for turn in range(min(2, self.repeats)):
                configs = {
                    engines: real_model.run_config(self.folder, f"{dtype}-{engines}-{turn}", model, dtype, engines)
                    for engines in sorted({1, len(self.cores)})
                }
                for engines, cfg in configs.items():
                    name = f"one rank, {engines} of vLLM"
                    with peak_memory() as memory_of_run:
                        seconds[name] += [step["step"] for step in measure_steps(cfg, steps)]
                    memory[name] += memory_of_run
                    print(f"{dtype}, {name}: {seconds[name]} s, {memory[name]} GiB", flush=True)
                cfg = configs[1]
                prompts = real_model.write_prompts(self.folder / "bank-prompts.json", cfg)
                asked = (cfg.grpo.samples_per_question, cfg.rollout.max_new_tokens, real_model.ROWS_A_PASS)
                with peak_memory() as memory_of_run:
                    seconds["TRL"] += measure_trl(python, model, prompts, dtype, steps, *asked)
                memory["TRL"] += memory_of_run
                print(f"{dtype}, TRL: {seconds['TRL']} s, {memory['TRL']} GiB", flush=True)
            for name, found in seconds.items():
                rows.append(Row(f"SmolLM2 step, {dtype}, {name}", "s", found))
                rows.append(Row(f"SmolLM2 peak memory, {dtype}, {name}", "GiB", memory[name]))
                if name != "TRL":
                    ratio = [one / median(seconds["TRL"]) for one in found]
                    rows.append(Row(f"SmolLM2 step over TRL's, {dtype}, {name}", "×", ratio, "at most 1; goal 0.5"))
        return rows

    def ceiling(self) -> list[Row]:
        rows, ranks = [], len(self.cores)
        for dtype in self.dtypes:
            words = ["benchmarks.ceiling", model_folder(self.folder, "7M", dtype), dtype, self.repeats]
            found = self._on_ranks(ranks, words, {})
            steps = found["step_seconds"]
            speed = ranks * found["linear_flops"] / median(found["linear_seconds"]) / 1e9
            note = f"{ranks} ranks of one thread; torch.mm reaches {speed:.0f} GFLOP/s in these sizes"
            linear = [100 * bare / step for bare, step in zip(found["linear_seconds"], steps, strict=True)]
            rows.append(Row(f"training step, {dtype}: bare products of its linear layers", "% of it", linear, "", note))
            attention = found["attention_seconds"]
            share = [rest + 100 * bare / step for rest, bare, step in zip(linear, attention, steps, strict=True)]
            target = "at least 60" if dtype == "bfloat16" else ""
            rows.append(Row(f"training step, {dtype}: with those of attention", "% of it", share, target))
            speeds = [found["trained_tokens"] / seconds for seconds in steps]
            rows.append(Row(f"training step, {dtype}: trained tokens", "tokens/s", speeds))
        return rows

    def refit(self) -> list[Row]:
        rows = []
        for model, dtype, layouts in REFITS:
            if dtype not in self.dtypes:
                continue
            cfg = self.config(dtype, ONE_RANK, model)
            cfg.rollout.memory_gb = 0.1  # nothing is sampled
            with Launcher(self.folder / f"refit-{model}") as launcher:
                (vllm,) = rollout_servers(cfg, cfg.model.path)
                launcher.start(vllm)
                launcher.wait_ready(vllm.name)
                for layout in layouts:
                    before = _engine_memory("VmRSS", reset_peak=True)
                    found = self._refit_in(layout.parallel, cfg)
                    grown = [(_engine_memory("VmHWM") - before) / found["bytes"]]
                    name = f"refit, {model} {dtype}, {layout.name}"
                    whole, *parts = (found["seconds"][part] for part in ("whole", *REFIT_PARTS))
                    times = [s / c for s, c in zip(whole, found["seconds"]["memcpy"], strict=True)]
                    rows.append(Row(name, "s", whole))
                    rows += [Row(f"{name}: {part}", "s", own) for part, own in zip(REFIT_PARTS, parts, strict=True)]
                    rows.append(Row(f"{name}: speed", "GB/s", [found["bytes"] / seconds / 1e9 for seconds in whole]))
                    target = "" if model == "7M" else "at most 10"
                    rows.append(Row(f"{name}: over memcpy of the same bytes", "×", times, target))
                    grows = f"{name}: vLLM's memory above what it serves with"
                    note = "its first refit" if layout is layouts[0] else "after other refits"
                    rows.append(Row(grows, "× the weights", grown, note=note))
        return rows

    def _refit_in(self, parallel: ParallelConfig, cfg: Config) -> dict:
        words = ["benchmarks.refit", cfg.model.path, cfg.model.dtype, parallel.tensor, parallel.pipeline]
        return self._on_ranks(
            parallel.world_size, [*words, cfg.rollout.urls[0], self.repeats], {KEY: cfg.rollout.api_key}
        )

    def _on_ranks(self, ranks: int, words: list, env: dict[str, str]) -> dict:
        """What a module writes as JSON into the file that its last argument names, run under torchrun."""
        out = self.folder / "found.json"
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        command += [f"--master-port={free_port()}", "-m", *words, out]
        env = {"OMP_NUM_THREADS": str(max(1, len(self.cores) // ranks)), "GLOO_SOCKET_IFNAME": "lo"} | env
        done = subprocess.run(
            list(map(str, command)),
            env=os.environ | KEEP_FREED_MEMORY | env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{words[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return json.loads(out.read_text())

    def exchange(self) -> list[Row]:
        return measure_exchange(self.repeats)

    def reward(self) -> list[Row]:
        return measure_reward(self.repeats)

    def sampling(self) -> list[Row]:
        return measure_sampling(self.repeats)

    def scaling(self) -> list[Row]:
        """Step time against one thing at a time, and the exponent of a power law through it."""
        rows = []
        rows += self._against("samples per question", (4, 8, 16), lambda value: self.config("float32", samples=value))
        rows += self._against("new tokens", (32, 64, 128), lambda value: self.config("float32", tokens=value))
        sizes = {"2M": 1.9e6, "7M": 6.8e6, "25M": 26.2e6}
        rows += self._against("model", sizes, lambda value: self.config("float32", model=value), sizes)
        counts = [count for count in (1, 2, 4, 8, 16) if count <= len(self.cores)]
        rows += self._against(
            "cores", counts, lambda value: self.config("float32", Layout.one_a_core(value)), cores=self.cores
        )
        return rows

    def _against(
        self, what: str, values, config: Callable, sizes: dict | None = None, cores: list[int] | None = None
    ) -> list[Row]:
        rows, points = [], []
        for value in values:
            if cores:
                os.sched_setaffinity(0, cores[:value])  # what is started inherits it
            found = [step["step"] for step in measure_steps(config(value), self.repeats)]
            rows.append(Row(f"step against {what}: {value}", "s", found))
            points.append((math.log(sizes[value] if sizes else value), math.log(median(found))))
        if cores:
            os.sched_setaffinity(0, cores)
        if len(points) > 1:
            slope = linear_regression(*zip(*points, strict=True)).slope
            rows.append(Row(f"step against {what}: exponent", "", [slope]))
        return rows


def _engine_memory(field: str, reset_peak: bool = False) -> int:
    """Bytes of vLLM's engine processes, which this process started: VmRSS now, or VmHWM, the most since the reset."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("VLLM"):
            folder = Path("/proc") / str(process.pid)
            lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            total += 1024 * int(lines[field].split()[0])
            if reset_peak:
                (folder / "clear_refs").write_text("5")
    return total


def main() -> None:
    names = [name for name in vars(Bench) if not name.startswith("_") and name != "config"]
    parser = argparse.ArgumentParser(
        prog="./run bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join(names))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if unknown := set(asked.rows) - set(names):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    about: dict[str, object] = {"machine": machine()}
    print(this_processor(), flush=True)
    if not this_processor().has_bfloat16:
        about["left_out"] = "bfloat16: the processor has no instructions for it"
        print(f"left out: {about['left_out']}", flush=True)
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), RESULTS.parent, asked.repeats)
            for name in asked.rows or names:
                print(f"{name} ...", flush=True)
                found = getattr(bench, name)()
                print(table(found), flush=True)
                rows += found
    finally:  # a row that fails does not take those before it along
        if rows:
            path = write(rows, about, asked.results)
            draw(rows, path.with_suffix(".svg"))
            print(path)


if __name__ == "__main__":
    main()
