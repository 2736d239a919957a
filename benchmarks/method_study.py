"""Plain GRPO, dynamic sampling and one step off-policy on the quickstart's task: the figures of docs/studies.md.

python benchmarks/method_study.py OUT_FOLDER QUICKSTART_RUN

QUICKSTART_RUN is a finished quickstart: its subset is what is trained on, its held-out questions what is asked. Each
run saves every third step, and every checkpoint answers the held-out questions greedily. Writes OUT_FOLDER/study.json,
study.svg and study.md. An hour on two cores; goes on where it was stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("svg")
import torch
from matplotlib import pyplot
from transformers import AutoModelForCausalLM, AutoTokenizer

from alphamed_nemo.config import Config
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.prompts import encode_prompt
from alphamed_nemo.export.convert import convert_to_hf
from alphamed_nemo.launch.settings import load_config
from alphamed_nemo.rewards.extract import extract_answer

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (1, 2, 3)
STEPS, EVERY = 30, 3
REACHED = 0.85  # of sampled answers; greedy ones are nearly all right after three updates already
SAMPLES = 2
VARIANTS = {
    "plain": [],
    "dynamic sampling": ["grpo.dynamic_sampling=true"],
    "one step off-policy": ["grpo.staleness=1", "grpo.correction=tis_token"],
}


def train(out: Path, run: str, questions: Path, settings: list[str]) -> None:
    words = ["experiment=tiny", f"run.dir={out}", f"run.name={run}", f"grpo.questions={questions}", *settings]
    words += [f"grpo.steps={STEPS}", f"grpo.save_every={EVERY}", "grpo.keep_checkpoints=100", "run.loggers=[]"]
    subprocess.run([sys.executable, ROOT / "recipes" / "train_grpo.py", *words], cwd=ROOT, check=True)


def accuracy(cfg: Config, folder: Path, questions: list, batch: int = 100) -> dict[str, float]:
    """Shares of right answers by transformers: greedy, and sampled at the temperature of training."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    right = {"greedy": 0, "sampled": 0}
    torch.manual_seed(0)
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        prompts = [encode_prompt(question, tokenizer, cfg.data) for question in part]
        inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        for how, options in (
            ("greedy", {"do_sample": False}),
            ("sampled", {"do_sample": True, "top_k": 0, "num_return_sequences": SAMPLES}),
        ):
            with torch.inference_mode():
                ids = model.generate(**inputs, max_new_tokens=cfg.rollout.max_new_tokens, **options)
            texts = tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
            asked = [question for question in part for _ in range(len(texts) // len(part))]
            pairs = zip(texts, asked, strict=True)
            right[how] += sum(extract_answer(text, question.options) == question.answer for text, question in pairs)
    return {"greedy": right["greedy"] / len(questions), "sampled": right["sampled"] / len(questions) / SAMPLES}


def evaluate(out: Path, run: str, questions: list) -> dict[int, dict[str, float]]:
    """Accuracy by step of every checkpoint of a run; step 0 is the base model."""
    cfg = load_config(out / run / "config.yaml")
    found = {0: accuracy(cfg, Path(cfg.model.path), questions)}
    for step in range(EVERY, STEPS + 1, EVERY):
        cfg.export.checkpoint = str(out / run / "checkpoints" / f"step_{step}")
        cfg.export.out = str(out / run / "converted" / f"step_{step}")
        if not Path(cfg.export.out).exists():
            convert_to_hf(cfg)
        found[step] = accuracy(cfg, Path(cfg.export.out), questions)
        print(f"{run}: step {step}, {found[step]}", flush=True)
    return found


def measure(out: Path, quickstart: Path) -> list[dict]:
    questions = read_questions(quickstart / "data" / "heldout.jsonl")
    rows = []
    for variant, settings in VARIANTS.items():
        for seed in SEEDS:
            run = f"{variant.replace(' ', '_')}_{seed}"
            if not (out / run / "DONE").exists():
                train(out, run, quickstart / "data" / "subset.jsonl", [*settings, f"run.seed={seed}"])
            metrics = [json.loads(line) for line in (out / run / "metrics.jsonl").read_text().splitlines()]
            by_step = evaluate(out, run, questions)
            rows.append(
                {
                    "variant": variant,
                    "seed": seed,
                    "accuracy": by_step,
                    "batch_effective_ratio": [row["batch_effective_ratio"] for row in metrics],
                    "sampling_rounds": [row["sampling_rounds"] for row in metrics],
                    "token_mult_prob_error": [row["token_mult_prob_error"] for row in metrics],
                    "seconds": sum(row["timing/step"] for row in metrics),
                    "reached": next((step for step, found in by_step.items() if found["sampled"] >= REACHED), None),
                }
            )
    return rows


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
    right.set(title="Held-out accuracy of sampled answers", xlabel="updates", ylim=(0, 1.03))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": "alphamed", "svg.fonttype": "none"}):
        canvas.savefig(path, metadata={"Date": None})


def table(rows: list[dict]) -> str:
    lines = [
        f"| variant | seed | held-out accuracy, greedy | sampled | updates to {REACHED:.0%} sampled "
        "| effective share of the batch, last 5 steps | sampling rounds a step | seconds of all steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        last = list(row["accuracy"].values())[-1]
        lines.append(
            f"| {row['variant']} | {row['seed']} | {100 * last['greedy']:.1f}% | {100 * last['sampled']:.1f}% "
            f"| {row['reached'] or '–'} "
            f"| {fmean(row['batch_effective_ratio'][-5:]):.2f} | {fmean(row['sampling_rounds']):.1f} "
            f"| {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(out: Path, quickstart: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = measure(out, quickstart)
    (out / "study.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "study.md").write_text(table(rows))
    figure(rows, out / "study.svg")
    print(table(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
