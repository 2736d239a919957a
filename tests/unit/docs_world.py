"""What documented commands name: models with the true config.json and no weights, runs, question files."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import yaml

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.families import dimensions
from alphamed_nemo.plan.sizes import SHIPPED
from alphamed_nemo.policy.checkpoint.folder import STATE
from tests.documented import MARKDOWN, ROOT, Block, blocks
from tests.unit.synthetic_run import make_run

REAL = "models/Llama-3.1-8B-Instruct"
RUNS = ("my_run", "a", "b", "medqa_l1", "medqa_l1_l2", "medqa_l1_l3", "quickstart")

# What a reader puts in for a placeholder. All are paths in the folder that `make_world` fills, or words of the docs.
PLACEHOLDERS = {
    "<Llama-3.1-8B-Instruct>": REAL,
    "<Mistral-7B-Instruct-v0.3>": REAL,
    "model.path=...": f"model.path={REAL}",
    "--model …": f"--model {REAL}",
    "<base>": REAL,
    "export.checkpoint=<folder>": "export.checkpoint=runs/my_run/checkpoints/step_20",
    "<folder>": REAL,
    "<this repository>": Path(__file__).resolve().parents[2].as_posix(),
    "evaluate.responses=<file>": "evaluate.responses=responses.jsonl",
    "<file>": "train.jsonl",
    "<run>": "runs/my_run",
    "<name>": "report run.name=my_run",
    "RECIPE": "report",
    "[setting=value ...]": "run.name=my_run",
    "[SETTING=VALUE ...]": "grpo.steps=80",
    "[--from=STAGE]": "--from=convert",
    "[SBATCH OPTIONS]": "--qos=short",
    "[--dry-run]": "--dry-run",
    "[unit|integration|real|gpu|slurm|image]": "unit",
    "[pytest arguments]": "-x",
    "[row ...]": "step reward",
    "[VARIANT ...]": "plain",
    "[--config runs/x/config.yaml]": "--config runs/my_run/config.yaml",
    "CASE…": "llama-tied",
    "[stubborn]": "stubborn",
    "[torchrun|ranks]": "torchrun",
    "RANKS PORT MODULE ARGUMENT...": "2 29500 alphamed_nemo.grpo.worker runs/my_run/config.yaml",
}

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}{{ eos_token }}{% endfor %}[assistant] "
)
THINKING = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"

SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}

# Writes down what it is given, and answers with the number of the job.
RECORDER = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done >>"$CALLS"
echo "end of call" >>"$CALLS"
grep -c "end of call" "$CALLS"
"""


def documented_files() -> dict[str, str]:
    """What the documents ask a reader to write: the YAML blocks that name their file."""
    found = (block for path in MARKDOWN for block in blocks(path) if block.language == "yaml")
    return {path: "\n".join(block.lines) for block in found if (path := documented_path(block))}


def documented_path(block: Block) -> str:
    """The file that a YAML block names in its first line, or in its second below Hydra's `# @package`; "" for none."""
    named = (line.removeprefix("# ") for line in block.lines[:2] if line.startswith("# conf/"))
    return next(named, "")


def make_world(folder: Path) -> None:
    """A folder in which the documents' paths exist; `bin` has an sbatch and a python that only write down."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "alphamed_nemo").symlink_to(ROOT / "alphamed_nemo")  # conf/ names the tiny model beside itself
    for name, text in documented_files().items():
        (folder / name).write_text(text)
    for config in SHIPPED.glob("*.json"):
        write_model(folder / "models" / config.stem, json.loads(config.read_text()))
    write_model(folder / "models" / "SmolLM2-135M-Instruct", SMOLLM2)
    for run in RUNS:
        make_run(folder / "runs" / run)
        (folder / "runs" / run / "hf").symlink_to(folder / REAL)
    (folder / "runs" / "my_run" / "config.yaml").write_text(yaml.safe_dump({"reward": {"protocol": "lenient"}}))
    checkpoint = folder / "runs" / "my_run" / "checkpoints" / "step_20"
    checkpoint.mkdir(parents=True)
    (checkpoint / STATE).touch()
    questions = examination(12)
    write_questions(questions, folder / "train.jsonl")
    write_lines(folder / "responses.jsonl", [{"id": q.id, "response": r"So it is \boxed{A}."} for q in questions])
    for name, key in (("mine", "A"), ("my_questions", "A"), ("heldout", "B")):
        rows = [
            {"question": f"The {name} question {n}?", "options": ["Iron", "Zinc"], "answer": key} for n in range(200)
        ]
        write_lines(folder / f"{name}.jsonl", rows)
    for program in ("sbatch", "python"):
        path = folder / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(RECORDER)
        path.chmod(0o755)


def forget_runs(folder: Path) -> None:
    """Takes away the runs and question files of one command, so that the next does not find them."""
    for run in (folder / "runs").iterdir():
        if run.name not in RUNS:
            shutil.rmtree(run)
        for name in ("train", "heldout", "subset", "validation"):
            (run / "data" / f"{name}.jsonl").unlink(missing_ok=True)


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_model(folder: Path, config: dict) -> None:
    """config.json, a tokenizer that fits it, a chat template, and weights that take no room on the disk."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for path in (ROOT / "alphamed_nemo" / "assets" / "tiny_base").glob("tokenizer*.json"):
        shutil.copy(path, folder)
    thinks = config["model_type"] == "qwen3"
    (folder / "chat_template.jinja").write_text(TEMPLATE + THINKING * thinks)
    header, end = {}, 0
    for name, shape in dimensions(config).tensors().items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # nothing but a hole


def examination(count: int, levels: bool = False) -> list[Question]:
    """As long as examination questions are, some 100 words each."""
    vignette = "A 54-year-old man presents with fatigue, fever and a cough that has lasted for three weeks. " * 6
    level = [n % 6 + 1 if levels else None for n in range(count)]
    return [
        Question(f"q{n}", "medqa", f"{vignette}Case {n}: what next?", ("Rest", "Iron"), "A", level=level[n])
        for n in range(count)
    ]


def add_files(cfg: Config) -> None:
    """What the steps before this one would have written."""
    tiny = cfg.data.prompt == "tiny"
    for path in (cfg.grpo.questions, cfg.data.train, cfg.data.heldout, cfg.label.questions, cfg.evaluate.questions):
        if not Path(path).exists():
            count = max(12, cfg.grpo.questions_per_step) if path == cfg.grpo.questions else 12
            found = embedded_bank(count, 0)[0] if tiny else examination(count, path == cfg.grpo.questions)
            write_questions(found, path)
    if cfg.validate.every and not Path(cfg.data.validation).exists():
        others = [
            replace(question, id=f"v{n}", stem=f"{question.stem} Why?") for n, question in enumerate(examination(4))
        ]
        write_questions(embedded_bank(0, 0, n_development=4)[2] if tiny else others, cfg.data.validation)
    if not Path(cfg.evaluate.model).exists():
        Path(cfg.evaluate.model).symlink_to(Path(cfg.model.path if tiny else REAL).resolve())
