"""Plain GRPO, dynamic sampling and one step off-policy on the quickstart's task: the figures of docs/studies.md.

python -m benchmarks.method_study OUT_FOLDER QUICKSTART_RUN [VARIANT ...]

QUICKSTART_RUN is a finished quickstart: its subset is what is trained on, its held-out questions what is asked. Each
run saves every fifth step, and every checkpoint answers the held-out questions through vLLM. Writes
OUT_FOLDER/study.json, study.svg and study.md. Half an hour on two cores; resumes where it was stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from safetensors.torch import load_file
from transformers import AutoTokenizer

from alphamed_nemo.answers.protocols import extract_answer
from alphamed_nemo.config.files import load_config
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.prompts import encode_prompt
from alphamed_nemo.export.convert import convert_to_hf
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import rollout_pool
from alphamed_nemo.rollout.connection import connect
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import read_manifest

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (1, 2, 3)
STEPS, EVERY = 40, 5
QUESTIONS = 16  # a step: half of the quickstart's, so that an uneven share of effective groups shows
SAMPLES = 4  # at the temperature of training; greedy answers are nearly all right after a few updates already
LAST = 3  # checkpoints over which the accuracy that a run ends with is averaged
VARIANTS = {
    "plain": [],
    "dynamic sampling": ["grpo.dynamic_sampling=true", "grpo.max_sampling_rounds=20"],
    "one step off-policy": ["grpo.staleness=1", "grpo.correction=tis_token"],
}


def train(out: Path, run: str, questions: Path, settings: list[str]) -> None:
    words = ["experiment=tiny", f"run.dir={out}", f"run.name={run}", f"grpo.questions={questions}"]
    words += ["validate.every=0", *settings]
    words += [f"grpo.steps={STEPS}", f"grpo.save_every={EVERY}", "grpo.keep_checkpoints=100", "run.loggers=[]"]
    words += [f"grpo.questions_per_step={QUESTIONS}"]
    subprocess.run([sys.executable, ROOT / "recipes" / "train_grpo.py", *words], cwd=ROOT, check=True)


def evaluate(out: Path, run: str, questions: list) -> dict[int, dict[str, float]]:
    """Shares of right answers by step of every checkpoint of a run, greedy and sampled; step 0 is the base model."""
    cfg = load_config(out / run / "config.yaml")
    cfg.rollout.urls = []
    tokenizer = AutoTokenizer.from_pretrained(cfg.model.path)
    prompts = [encode_prompt(question, tokenizer, cfg.data) for question in questions]
    found = {}
    with Launcher(out / run / "logs" / "study") as launcher:
        pool = rollout_pool(cfg, launcher, cfg.model.path)
        manifest = read_manifest(cfg.model.path)
        transfer = WeightTransfer(connect(cfg.rollout), cfg.rollout, manifest)
        for step in range(0, STEPS + 1, EVERY):
            if step:
                cfg.export.checkpoint = str(out / run / "checkpoints" / f"step_{step}")
                cfg.export.out = str(out / run / "converted" / f"step_{step}")
                if not Path(cfg.export.out).exists():
                    convert_to_hf(cfg)
                transfer.refit(iter(load_file(Path(cfg.export.out) / "model.safetensors").items()), step)
            found[step] = {}
            for how, n, temperature in (("greedy", 1, 0.0), ("sampled", SAMPLES, 1.0)):
                groups = pool.generate(prompts, n, temperature, 1.0, cfg.rollout.max_new_tokens, seed=1)
                answers = [
                    extract_answer(rollout.text, question.options) == question.answer
                    for question, group in zip(questions, groups, strict=True)
                    for rollout in group
                ]
                found[step][how] = fmean(answers)
            print(f"{run}: step {step}, {found[step]}", flush=True)
    return found


def measure(out: Path, quickstart: Path, variants: list[str]) -> list[dict]:
    questions = read_questions(quickstart / "data" / "heldout.jsonl")
    rows = []
    for seed in SEEDS:
        for variant in variants:
            run = f"{variant.replace(' ', '_')}_{seed}"
            if not (out / run / "DONE").exists():
                train(out, run, quickstart / "data" / "subset.jsonl", [*VARIANTS[variant], f"run.seed={seed}"])
            kept = out / run / "accuracy.json"
            if not kept.exists():
                kept.write_text(json.dumps(evaluate(out, run, questions)))
            metrics = [json.loads(line) for line in (out / run / "metrics.jsonl").read_text().splitlines()]
            rows.append(
                {
                    "variant": variant,
                    "seed": seed,
                    "accuracy": {int(step): found for step, found in json.loads(kept.read_text()).items()},
                    "batch_effective_ratio": [row["batch_effective_ratio"] for row in metrics],
                    "sampling_rounds": [row["sampling_rounds"] for row in metrics],
                    "token_mult_prob_error": [row["token_mult_prob_error"] for row in metrics],
                    "seconds": sum(row["timing/step"] for row in metrics),
                }
            )
    return rows


def final(row: dict) -> float:
    """The sampled accuracy that a run ends with."""
    return fmean(found["sampled"] for found in list(row["accuracy"].values())[-LAST:])


def reached(row: dict, accuracy: float) -> float | None:
    """Updates after which a run's sampled accuracy first was `accuracy`, on straight lines between its checkpoints."""
    points = [(step, found["sampled"]) for step, found in row["accuracy"].items()]
    for (before, low), (after, high) in pairwise(points):
        if low < accuracy <= high:
            return before + (after - before) * (accuracy - low) / (high - low)
    return None


def figure(rows: list[dict], path: Path) -> None:
    canvas, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6))
    for colour, variant in zip(("#1f6f8b", "#d97628", "#7a4fa0"), VARIANTS, strict=True):
        for row in (row for row in rows if row["variant"] == variant):
            label = variant if row["seed"] == SEEDS[0] else None
            ratio = row["batch_effective_ratio"]
            left.plot(range(1, len(ratio) + 1), ratio, color=colour, label=label, lw=1.2)
            sampled = [found["sampled"] for found in row["accuracy"].values()]
            right.plot([int(step) for step in row["accuracy"]], sampled, color=colour, lw=1.2)
    left.set(title="Effective share of the batch trained on", xlabel="step", ylim=(0, 1.03))
    right.set(title="Held-out accuracy of sampled answers", xlabel="updates", ylim=(0.4, 1.0))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": "alphamed", "svg.fonttype": "none"}):
        canvas.savefig(path, metadata={"Date": None})


def table(rows: list[dict]) -> str:
    """One row a run. "Updates to plain's end": to the sampled accuracy that plain GRPO ends with, for the same seed."""
    lines = [
        "| variant | seed | held-out accuracy at the end, greedy | sampled | updates to plain's end "
        "| effective share of the batch, last 5 steps | sampling rounds per step | seconds of all steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    goals = {row["seed"]: final(row) for row in rows if row["variant"] == "plain"}
    for row in rows:
        greedy = fmean(found["greedy"] for found in list(row["accuracy"].values())[-LAST:])
        lines.append(
            f"| {row['variant']} | {row['seed']} | {100 * greedy:.1f}% | {100 * final(row):.1f}% "
            f"| {'–' if (updates := reached(row, goals[row['seed']])) is None else f'{updates:.1f}'} "
            f"| {fmean(row['batch_effective_ratio'][-5:]):.2f} | {fmean(row['sampling_rounds']):.1f} "
            f"| {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(out: Path, quickstart: Path, *variants: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = measure(out, quickstart, list(variants or VARIANTS))
    (out / "study.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "study.md").write_text(table(rows))
    figure(rows, out / "study.svg")
    print(table(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), *sys.argv[3:])
