"""Mistakes that are found before any process starts: each is one line that names the setting."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from alphamed_nemo import devices
from alphamed_nemo.cli.preflight import Asking, check_lengths, check_model_folder, check_positions, check_training
from alphamed_nemo.clinic.tokenizer import build_tokenizer
from alphamed_nemo.config import Config
from alphamed_nemo.config.limits import check_values
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.prompts import encode_prompt
from alphamed_nemo.data.question import Question
from alphamed_nemo.families import dimensions
from tests.hollow_model import SMALL_LLAMA, write_hollow, write_hollow_model
from tests.unit.docs_recipes import NothingStarts

MODEL = SMALL_LLAMA | {"max_position_embeddings": 256}
QUESTION = Question("q1", "clinic", "Which drug treats it?", ("one", "two", "three"), "A", level=1)
TOKENIZER = build_tokenizer()


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """A run that passes."""
    model = tmp_path / "model"
    TOKENIZER.save_pretrained(model)
    write_hollow_model(model, MODEL)
    write_questions([replace(QUESTION, id=f"q{n}") for n in range(1, 41)], tmp_path / "train.jsonl")
    cfg = Config()
    cfg.model.path, cfg.model.max_length, cfg.rollout.max_new_tokens = str(model), 192, 48
    cfg.grpo.questions = str(tmp_path / "train.jsonl")
    cfg.data.prompt, cfg.run.dir = "tiny", str(tmp_path / "runs")
    cfg.grpo.steps, cfg.grpo.questions_per_step = 40, 32
    return cfg


def change_model(cfg: Config, **values: object) -> None:
    Path(cfg.model.path, "config.json").write_text(json.dumps(MODEL | values))


def put(cfg: Config, key: str, value: object) -> None:
    section, name = key.split(".")
    setattr(getattr(cfg, section), name, value)


def test_a_good_run_passes(cfg: Config) -> None:
    check_values(cfg)
    check_training(cfg)
    cfg.parallel.tensor, cfg.parallel.pipeline, cfg.parallel.virtual_pipeline = 4, 2, 2
    check_training(cfg)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parallel.tensor": 3}, r"parallel\.tensor: 3 does not divide the model's 8 attention heads.* 1, 2, 4$"),
        ({"parallel.tensor": 8}, r"parallel\.tensor: 8 does not divide the model's 4 key-value heads.* 1, 2, 4$"),
        ({"parallel.pipeline": 3}, r"parallel\.pipeline: 3 stages do not divide the model's 4 layers.* 1, 2, 4$"),
        ({"parallel.pipeline": 2, "parallel.virtual_pipeline": 3}, r"2 stages × parallel\.virtual_pipeline=3"),
        ({"parallel.virtual_pipeline": 2}, r"parallel\.virtual_pipeline: found 2 with parallel\.pipeline=1"),
        ({"parallel.context": 2}, r"parallel\.context: found 2, expected 1"),
        ({"parallel.sequence": True}, r"parallel\.sequence: needs parallel\.tensor of 2"),
        (
            {"parallel.sequence": True, "parallel.tensor": 2, "grpo.tokens_per_microbatch": 1023},
            r"grpo\.tokens_per_microbatch: found 1023, expected a multiple of parallel\.tensor=2",
        ),
        ({"model.max_length": 512}, r"model\.max_length: found 512, more than the model's 256 positions"),
        ({"rollout.max_new_tokens": 192}, r"rollout\.max_new_tokens: found 192, which leaves no room"),
        ({"rollout.max_new_tokens": 180}, r"192 tokens are too few for the prompt of question q\d+ \(\d+\).* 180"),
        ({"grpo.tokens_per_microbatch": 128}, r"tokens_per_microbatch: 128 is less than model\.max_length=192"),
        ({"grpo.updates_per_batch": 33}, r"grpo\.updates_per_batch: 33 mini-batches of 32 questions"),
        ({"grpo.aggregation": "constant_length"}, r"grpo\.constant_length: found 0, expected the divisor"),
        ({"grpo.overlong_penalty_tokens": 49}, r"grpo\.overlong_penalty_tokens: found 49"),
        ({"grpo.questions_per_step": 41}, r"grpo\.questions_per_step: found 41, but .*train\.jsonl holds only 40"),
        ({"optim.warmup_steps": 40}, r"optim\.warmup_steps: found 40, expected fewer than the run's 40 updates"),
        ({"rollout.extra_args": ["--dtype=half"]}, r"rollout\.extra_args: found --dtype; set rollout\.dtype instead"),
        ({"rollout.extra_args": ["--max_model_len", "9"]}, r"found --max-model-len; set model\.max_length instead"),
        ({"rollout.extra_args": ["--data-par=2"]}, r"found --data-par; set rollout\.engines instead"),
        ({"rollout.extra_args": ["--logprobs-mode=raw_logprobs"]}, r"found --logprobs-mode, on which client and loss"),
        ({"rollout.extra_args": ["--hos", "0.0.0.0"]}, r"found --hos; set rollout\.host instead"),
        ({"rollout.extra_args": ["--middleware=mine.Open"]}, r"found --middleware, on which client and loss"),
        ({"rollout.extra_args": ["swap"]}, r"rollout\.extra_args: found 'swap', expected options of vLLM"),
        ({"optim.schedule": "cosine", "optim.warmup_steps": 40}, r"optim\.warmup_steps: found 40.* run's 40 updates"),
        ({"optim.min_lr": 1.0}, r"optim\.min_lr: found 1\.0, expected at most optim\.lr"),
        ({"grpo.questions": "nosuch.jsonl"}, r"grpo\.questions: no file nosuch\.jsonl; run prepare_data"),
        ({"grpo.questions": ""}, r"grpo\.questions is not set; name a file of questions"),
        ({"model.path": ""}, r"model\.path is not set; give a Hugging Face folder"),
        ({"model.path": "nosuch"}, r"model\.path: no folder 'nosuch'"),
        ({"run.dir": "/proc/1/runs"}, r"run\.dir: cannot write to /proc"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(cfg: Config, settings: dict, message: str) -> None:
    for key, value in settings.items():
        put(cfg, key, value)
    with pytest.raises(ValueError, match=message) as caught:
        check_training(cfg)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(devices.cuda_is_available(), reason="asks for a GPU where there is none")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.spec", "transformer_engine"),
        ("model.fp8", "hybrid"),
        ("model.fusions", ["rope"]),
        ("optim.offload", True),
        ("parallel.overlap_param_gather", True),
        ("rollout.quantization", "fp8"),
        ("rollout.transfer", "nccl"),
        ("rollout.transfer", "ipc"),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(cfg: Config, key: str, value: object) -> None:
    put(cfg, key, value)
    with pytest.raises(ValueError, match=rf"^{key}: .*CUDA") as caught:
        check_training(cfg)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grpo.share_prompts": True}, r"grpo\.share_prompts: Transformer Engine's attention knows no shared prompts"),
        ({"model.fp8": "e4m3", "model.spec": "local"}, r"model\.fp8: needs Transformer Engine's layers"),
        ({"model.fp8": "hybrid", "grpo.tokens_per_microbatch": 1000}, "expected a multiple of 16 with model.fp8"),
        ({"model.fp8": "hybrid"}, r"model\.fp8: Transformer Engine is not installed"),
        ({"grpo.staleness": 1}, r"grpo\.staleness: sampling while the trainer works"),  # colocated is the default
        ({"rollout.transfer": "nccl"}, r"rollout\.transfer: found nccl with rollout\.placement=colocated"),
    ],
)
def test_what_does_not_go_together_on_a_gpu_is_refused(
    cfg: Config, monkeypatch: pytest.MonkeyPatch, settings: dict, message: str
) -> None:
    monkeypatch.setattr(devices, "cuda_is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformer_engine" else object())
    for key, value in settings.items():
        put(cfg, key, value)
    with pytest.raises(ValueError, match=message):
        check_training(cfg)


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_logger_that_is_not_installed_is_refused(cfg: Config) -> None:
    cfg.run.loggers = ["tensorboard", "mlflow"]
    with pytest.raises(ValueError, match=r"run\.loggers: mlflow is not installed; pip install mlflow"):
        check_training(cfg)


@pytest.fixture
def without_wandb_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without a key of Weights & Biases, which counts as installed."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return tmp_path


def test_wandb_without_a_key_is_refused(cfg: Config, without_wandb_key: Path) -> None:
    (without_wandb_key / ".netrc").write_text("machine other.host login user password secret\n")
    cfg.run.loggers = ["wandb"]
    with pytest.raises(ValueError, match=r"^run\.loggers: wandb finds no key; set WANDB_API_KEY.*WANDB_MODE=offline$"):
        check_training(cfg)


@pytest.mark.parametrize(
    ("environment", "netrc", "settings"),
    [
        ({"WANDB_API_KEY": "k" * 40}, "", {}),
        ({"WANDB_MODE": "offline"}, "", {}),
        ({"WANDB_MODE": "disabled"}, "", {}),
        ({}, "machine api.wandb.ai login user password secret", {}),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "machine wandb.example.org login user password s", {}),
        ({}, "", {"wandb_logger_kwargs": {"offline": True}}),
    ],
)
def test_wandb_is_accepted_with_a_key_or_offline(
    cfg: Config,
    without_wandb_key: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    netrc: str,
    settings: dict,
) -> None:
    (without_wandb_key / ".netrc").write_text(f"{netrc}\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cfg.run.loggers, cfg.exp_manager = ["wandb"], settings
    check_training(cfg)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_model_folder_is_refused(cfg: Config, name: str) -> None:
    Path(cfg.model.path, name).unlink()
    with pytest.raises(ValueError, match=r"model\.path: .*is the download complete\?"):
        check_training(cfg)


def test_a_missing_or_damaged_shard_is_refused(cfg: Config) -> None:
    folder = Path(cfg.model.path)
    (folder / "model.safetensors").unlink()
    first, second = (folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    names = list(dimensions(MODEL).tensors())
    shapes = [{name: dimensions(MODEL).tensors()[name] for name in part} for part in (names[:5], names[5:])]
    index = {name: path.name for path, part in zip((first, second), shapes, strict=True) for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    write_hollow(first, shapes[0])
    for content, message in (
        (None, r"00002-of-00002\.safetensors: missing, although .* is the download complete\?$"),
        (b"", r"00002-of-00002\.safetensors: found 0 bytes that are no safetensors; is the download complete\?$"),
        (b"<html>", r"found 6 bytes that are no safetensors"),
    ):
        if content is not None:
            second.write_bytes(content)
        for built in (True, False):
            with pytest.raises(ValueError, match=rf"^evaluate\.model: .*{message}"):
                check_model_folder(cfg.model.path, "evaluate.model", built)
    write_hollow(second, shapes[1])
    assert check_model_folder(cfg.model.path, "evaluate.model") == MODEL
    with second.open("r+b") as file:
        file.truncate(second.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"found \d+ bytes, expected \d+ by its header; is the download complete\?$"):
        check_model_folder(cfg.model.path, "evaluate.model")


def test_what_megatron_cannot_build_may_still_be_served(cfg: Config) -> None:
    change_model(cfg, rope_scaling={"rope_type": "yarn", "factor": 4.0})
    with pytest.raises(ValueError, match=r"^model\.path: .*config\.json: rope_scaling: found rope_type 'yarn'"):
        check_training(cfg)
    check_model_folder(cfg.model.path, "evaluate.model", built=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cfg: change_model(cfg, model_type="gpt2"), r"model_type: found 'gpt2', expected one of llama"),
        (lambda cfg: Path(cfg.model.path, "config.json").write_text("{"), "config.json is not JSON"),
        (
            lambda cfg: write_hollow_model(Path(cfg.model.path), MODEL | {"vocab_size": 100}),
            r"has \d+ tokens, the model only 100",
        ),
        (lambda cfg: Path(cfg.grpo.questions).write_text(""), r"grpo\.questions: .* holds no question"),
        (
            lambda cfg: write_questions([replace(QUESTION, level=None)], cfg.grpo.questions),
            r"grpo\.curriculum: easy_first needs difficulty levels",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(cfg: Config, change: Callable[[Config], object], message: str) -> None:
    cfg.grpo.curriculum = "easy_first"
    change(cfg)
    with pytest.raises(ValueError, match=message):
        check_training(cfg)


def test_the_longest_prompt_fits_to_the_token(cfg: Config) -> None:
    questions = [replace(QUESTION, id=f"q{n}", stem="fever " * n) for n in range(1, 40)]
    longest = max(len(encode_prompt(question, TOKENIZER, cfg.data)) for question in questions)
    cfg.rollout.max_new_tokens = 48
    cfg.model.max_length = longest + 48
    check_lengths(cfg, questions, MODEL)
    cfg.model.max_length -= 1
    with pytest.raises(ValueError, match=rf"prompt of question q39 \({longest}\)"):
        check_lengths(cfg, questions, MODEL)


@pytest.mark.parametrize("asking", ["rollout", "label", "evaluate"])
def test_a_context_that_the_model_lacks_or_a_response_fills_is_refused_for_whoever_asks(
    cfg: Config, asking: Asking
) -> None:
    getattr(cfg, asking).max_new_tokens = cfg.model.max_length = 256
    with pytest.raises(ValueError, match=rf"{asking}\.max_new_tokens: found 256, which leaves no room"):
        check_positions(cfg, MODEL, asking)
    cfg.model.max_length = 257
    with pytest.raises(ValueError, match=r"model\.max_length: found 257, more than the model's 256 positions"):
        check_positions(cfg, MODEL, asking)
    for key in ("rope_scaling", "rope_parameters"):
        check_positions(cfg, MODEL | {key: {"rope_type": "yarn", "factor": 2.0}}, asking)
    for kind in ("default", "llama3"):  # the latter's positions are those that it was stretched to
        with pytest.raises(ValueError, match="more than the model's"):
            check_positions(cfg, MODEL | {"rope_parameters": {"rope_type": kind, "factor": 8.0}}, asking)


def test_an_evaluation_beyond_the_models_context_ends_before_any_server(cfg: Config) -> None:
    from evaluate import start

    cfg.evaluate.model, cfg.model.max_length = cfg.model.path, 257
    with pytest.raises(ValueError, match=r"model\.max_length: found 257, more than the model's 256 positions"):
        start(cfg, NothingStarts())
