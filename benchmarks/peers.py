"""TRL's GRPOTrainer on the same machine: its own environment, and its steps in turn with ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from transformers import AutoTokenizer

from alphamed_nemo.config import Config
from alphamed_nemo.data.prompts import encode_prompt
from alphamed_nemo.launch.components import KEEP_FREED_MEMORY
from benchmarks.workload import TOKENIZER, long_questions

HERE = Path(__file__).resolve().parent
ROWS_A_PASS = 8  # of 128; 32 and 128 take as long in float32, and a tenth longer in bfloat16


def trl_python(folder: Path, torch_version: str) -> Path:
    """TRL's newest release with the same torch, in an environment of its own; made once."""
    python = folder / "trl-env" / "bin" / "python"
    done = folder / "trl-env" / "done"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", python.parents[1]], check=True)
        for requirement in (f"torch=={torch_version.partition('+')[0]}", "trl"):
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-input", requirement], check=True)
        done.touch()
    return python


def write_prompts(path: Path, prompts: int) -> Path:
    """The texts that TRL tokenizes to the very prompts of our step."""
    tokenizer, settings = AutoTokenizer.from_pretrained(TOKENIZER), Config().data
    settings.prompt = "tiny"
    texts = []
    for question in long_questions(64)[:prompts]:
        ids = encode_prompt(question, tokenizer, settings)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert tokenizer(text)["input_ids"] == ids
        texts.append(text)
    path.write_text(json.dumps(texts))
    return path


def measure_trl(
    python: Path, model: Path, prompts: Path, dtype: str, steps: int, samples: int, tokens: int, rows: int = ROWS_A_PASS
) -> list[float]:
    """Seconds of each step after the warm-up."""
    words = [model, prompts, dtype, steps, samples, tokens, rows]
    # Freed memory is kept for it as for our ranks: 6% faster.
    env = (
        os.environ
        | KEEP_FREED_MEMORY
        | {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "CUDA_VISIBLE_DEVICES": ""}
    )
    done = subprocess.run(
        [python, HERE / "trl_step.py", *map(str, words)], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"TRL ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["seconds"]
