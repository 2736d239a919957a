"""What can be known to be wrong before any process starts. Every mistake is one ValueError of one line."""

from __future__ import annotations

import importlib.util
import netrc
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from alphamed_nemo import devices, user_code
from alphamed_nemo.config import Config
from alphamed_nemo.config.layout import check_layout, check_microbatch
from alphamed_nemo.config.limits import check_training_values
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.hf_tokenizer import load_tokenizer
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.prompts import encode_prompt, format_prompt
from alphamed_nemo.data.question import Question
from alphamed_nemo.families import dimensions
from alphamed_nemo.rewards.functions import check_functions
from alphamed_nemo.rollout.vllm_command import check_extra_args, resolve_transfer
from alphamed_nemo.weight_files import check_model, check_served

Asking = Literal["rollout", "label", "evaluate"]
FP8_MULTIPLE = 16  # tokens: cuBLAS wants both sides of an FP8 product divisible by it


def check_run(cfg: Config) -> dict[str, Any]:
    """Everything that training needs and that does not depend on the questions.

    Returns:
        The model's config.json.

    Raises:
        ValueError: names the key, what was found, what was expected, and what to do.
    """
    check_training_values(cfg)
    check_own_code(cfg)
    check_loggers(cfg)
    check_devices(cfg)
    model = check_built(cfg)
    check_positions(cfg, model)
    check_extra_args(cfg.rollout.extra_args)
    check_run_folder(cfg)
    return model


def check_built(cfg: Config) -> dict[str, Any]:
    """The model's config.json, once it is known that Megatron can build and divide the model."""
    model = check_model_folder(cfg.model.path, "model.path")
    built = dimensions(model)
    check_layout(cfg.parallel, built.heads, built.groups, built.features, built.layers)
    check_microbatch(cfg.parallel, cfg.grpo.tokens_per_microbatch)
    return model


def check_own_code(cfg: Config) -> None:
    """Whether the user's rewards and loss are where the settings say. Runs none of them."""
    check_functions(cfg.reward)
    if cfg.grpo.has_own_loss:
        user_code.find(cfg.grpo.loss, "grpo.loss", ("tokens", "cfg"))


def check_loggers(cfg: Config) -> None:
    """Whether the loggers that are asked for are installed and, where they need an account, have one."""
    for name in cfg.run.loggers:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"run.loggers: {name} is not installed; pip install {name}, or leave it out")
    settings = cfg.exp_manager.get("wandb_logger_kwargs") or {}
    asked = "wandb" in cfg.run.loggers or cfg.exp_manager.get("create_wandb_logger")
    offline = settings.get("offline") or os.environ.get("WANDB_MODE", "online") not in ("online", "run")
    if asked and not offline and not wandb_key():
        raise ValueError(
            "run.loggers: wandb finds no key; set WANDB_API_KEY, run `wandb login` once, or set WANDB_MODE=offline"
        )


def wandb_key() -> str:
    """The key that Weights & Biases would find: in the environment or, for its host, in the netrc file."""
    if key := os.environ.get("WANDB_API_KEY", ""):
        return key
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            entry = netrc.netrc(path).authenticators(host or "")
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
        if entry and entry[2]:
            return entry[2]
    return ""


def check_training(cfg: Config) -> None:
    """Everything that train_grpo needs.

    Raises:
        ValueError: names the key, what was found, what was expected, and what to do.
    """
    model = check_run(cfg)
    questions = check_questions(cfg.grpo.questions, "grpo.questions")
    if cfg.grpo.curriculum == "easy_first" and any(question.level is None for question in questions):
        raise ValueError(
            f"grpo.curriculum: easy_first needs difficulty levels, which {cfg.grpo.questions} lacks; run "
            "label_difficulty first"
        )
    if cfg.grpo.questions_per_step > len(questions):
        raise ValueError(
            f"grpo.questions_per_step: found {cfg.grpo.questions_per_step}, but {cfg.grpo.questions} holds "
            f"only {len(questions)}, and a batch would ask some twice; lower it, or take more questions"
        )
    check_lengths(cfg, questions, model)
    if cfg.grpo.replay:
        check_replay(cfg)
    if cfg.validate.every:
        check_lengths(cfg, check_validation(cfg, questions), model)


def check_replay(cfg: Config) -> None:
    """Whether there are rollouts of every step.

    Raises:
        ValueError: there are not, or the run asks for what needs servers.
    """
    folder = RunFolder(Path(cfg.grpo.replay))
    if folder.root.resolve() == RunFolder.of(cfg).root.resolve():
        raise ValueError(f"grpo.replay: {folder.root} is this run's own folder; give the replay another run.name")
    missing = [step for step in range(1, cfg.grpo.steps + 1) if not folder.rollouts_of(step).is_file()]
    if missing:
        raise ValueError(
            f"grpo.replay: {folder.rollouts} lacks step {missing[0]} of {cfg.grpo.steps}; lower grpo.steps, or name a "
            "run that kept its rollouts (grpo.keep_rollouts)"
        )
    if cfg.validate.every:
        raise ValueError("validate.every: a replay has no servers to ask; set it to 0")
    if cfg.grpo.staleness:
        raise ValueError("grpo.staleness: a replay trains on what is there; set it to 0")


def check_validation(cfg: Config, trained: list[Question]) -> list[Question]:
    """The questions of `validate.questions`, once it is known that none of them is trained on."""
    training = {(question.stem, question.context, question.options) for question in trained}
    found = []
    for path in cfg.validate.questions:
        if not Path(path).is_file():
            raise ValueError(
                f"validate.questions: no file {path}; prepare_data writes it with data.validation_questions above 0; "
                "or name another file, or set validate.every=0"
            )
        questions = check_questions(path, "validate.questions")
        both = [q.id for q in questions if (q.stem, q.context, q.options) in training]
        if both:
            raise ValueError(
                f"validate.questions: {len(both)} of {len(questions)} questions of {path} are trained on too "
                f"({cfg.grpo.questions}; the first is {both[0]}); name others, or take them out of the training file"
            )
        found += questions
    return found


def check_model_folder(path: str, key: str, built: bool = True) -> dict[str, Any]:
    """The model's config.json, once the folder is known to be complete.

    Args:
        path: the folder.
        key: the setting that names it.
        built: whether Megatron has to build the model. What is only served may have what vLLM alone can do, such as
            other scalings of the rotary embedding.
    """
    folder = Path(path)
    wanted = "give a Hugging Face folder with safetensors and a tokenizer"
    if not path:
        raise ValueError(f"{key} is not set; {wanted}")
    if not folder.is_dir():
        raise ValueError(f"{key}: no folder {path!r}; {wanted}")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{key}: {path} has no config.json; is the download complete?")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ValueError(f"{key}: {path} has no tokenizer (tokenizer.json); is the download complete?")
    try:
        return check_model(folder) if built else check_served(folder)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def check_devices(cfg: Config) -> None:
    """Options that need a GPU, asked for where there is none."""
    cuda = devices.cuda_is_available()
    resolve_transfer(cfg.rollout.transfer, cuda, cfg.rollout.placement)
    if cfg.grpo.staleness and (cfg.rollout.offload_trainer or (cuda and cfg.rollout.placement == "colocated")):
        raise ValueError(
            "grpo.staleness: sampling while the trainer works needs GPUs of its own, and with rollout.placement="
            "colocated, or rollout.offload_trainer, trainer and servers take turns; use separate, or grpo.staleness=0"
        )
    wanted = gpu_options(cfg)
    if wanted and not cuda:
        key, value, without = wanted[0]
        raise ValueError(f"{key}: {value} needs a CUDA device and there is none; set {without}")
    if cfg.optim.offload and cfg.model.dtype == "float32":
        raise ValueError(
            "optim.offload: Megatron's optimizer on the host keeps float32 copies of bfloat16 weights, and cannot load "
            "a checkpoint of float32 ones; set model.dtype=bfloat16, or optim.offload=false"
        )
    if cfg.grpo.share_prompts and cuda and cfg.model.spec != "local":
        raise ValueError(
            "grpo.share_prompts: Transformer Engine's attention knows no shared prompts; set it to null, or "
            "model.spec=local"
        )
    if cfg.model.fp8 and cfg.model.spec == "local":
        raise ValueError("model.fp8: needs Transformer Engine's layers; set model.spec=transformer_engine")
    if cfg.model.fp8 and cfg.grpo.tokens_per_microbatch % FP8_MULTIPLE:
        raise ValueError(
            f"grpo.tokens_per_microbatch: found {cfg.grpo.tokens_per_microbatch}, expected a multiple of "
            f"{FP8_MULTIPLE} with model.fp8"
        )
    needs_te = cfg.model.spec == "transformer_engine" or cfg.model.fp8
    if needs_te and importlib.util.find_spec("transformer_engine") is None:
        key = "model.fp8" if cfg.model.fp8 else "model.spec"
        raise ValueError(f"{key}: Transformer Engine is not installed; install the gpu extra, or use model.spec=local")


def gpu_options(cfg: Config) -> list[tuple[str, Any, str]]:
    """What is asked for that only a GPU has: (setting, its value, what to set without one)."""
    model, parallel = cfg.model, cfg.parallel
    options = [
        ("model.fp8", model.fp8, "model.fp8=''"),
        ("model.spec", model.spec if model.spec == "transformer_engine" else "", "model.spec=auto or local"),
        ("model.fusions", ", ".join(model.fusions), "model.fusions=[]"),
        ("optim.offload", cfg.optim.offload, "optim.offload=false"),
        ("parallel.overlap_param_gather", parallel.overlap_param_gather, "parallel.overlap_param_gather=false"),
        ("rollout.quantization", cfg.rollout.quantization, "rollout.quantization=''"),
    ]
    return [option for option in options if option[1]]


def check_positions(cfg: Config, model: dict[str, Any], asking: Asking = "rollout") -> None:
    """Whether the model knows as many positions as `model.max_length`, and a response leaves room for a prompt.

    Args:
        model: its config.json. Where that stretches the rotary embedding, vLLM knows how far it reaches.
        asking: the group of settings whose `max_new_tokens` counts.
    """
    positions = model.get("max_position_embeddings", cfg.model.max_length)
    rope = model.get("rope_parameters") or model.get("rope_scaling") or {}
    reaches_further = rope.get("rope_type", rope.get("type", "default")) not in ("default", "llama3")
    if cfg.model.max_length > positions and not reaches_further:
        raise ValueError(f"model.max_length: found {cfg.model.max_length}, more than the model's {positions} positions")
    max_new_tokens = getattr(cfg, asking).max_new_tokens
    if max_new_tokens >= cfg.model.max_length:
        raise ValueError(
            f"{asking}.max_new_tokens: found {max_new_tokens}, which leaves no room for a prompt in "
            f"model.max_length={cfg.model.max_length}"
        )


def check_run_folder(cfg: Config) -> None:
    """Whether the run folder can be written."""
    folder = Path(cfg.run.dir)
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"run.dir: cannot write to {folder}; name another folder")


def check_questions(path: str, key: str) -> list[Question]:
    """The questions of a file that exists and is not empty; only evaluation may ask for values instead of options."""
    if not path:
        raise ValueError(f"{key} is not set; name a file of questions")
    if not Path(path).is_file():
        steps = "prepare_data" if key == "label.questions" else "prepare_data and label_difficulty"
        raise ValueError(f"{key}: no file {path}; run {steps} first, or name another file")
    questions = read_questions(path)
    if not questions:
        raise ValueError(f"{key}: {path} holds no question")
    values = [question.id for question in questions if not question.options]
    if values and key != "evaluate.questions":
        raise ValueError(
            f"{key}: {path}: question {values[0]} asks for a value, without options; evaluate alone reads it"
        )
    return questions


def check_lengths(cfg: Config, questions: list[Question], model: dict[str, Any], asking: Asking = "rollout") -> None:
    """Whether the tokenizer fits the model, and the longest prompt and its response fit the context; `asking` as in
    `check_positions`.

    No token is shorter than a byte, so prompts that fit byte by byte need no encoding.
    """
    check_positions(cfg, model, asking)
    tokenizer = load_tokenizer(cfg.model.path)
    if len(tokenizer) > model["vocab_size"]:
        raise ValueError(
            f"model.path: the tokenizer of {cfg.model.path} has {len(tokenizer)} tokens, the model only "
            f"{model['vocab_size']}"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"model.path: the tokenizer of {cfg.model.path} has no end-of-sequence token")
    sizes = [len(format_prompt(question, cfg.data.prompt).encode()) for question in questions]
    # What the chat template and special tokens add is within the shortest prompt's tokens.
    shortest = min(range(len(questions)), key=sizes.__getitem__)
    around = len(encode_prompt(questions[shortest], tokenizer, cfg.data))
    max_new_tokens = getattr(cfg, asking).max_new_tokens
    room = cfg.model.max_length - max_new_tokens
    long = [question for question, size in zip(questions, sizes, strict=True) if size + around > room]
    lengths = [(len(encode_prompt(question, tokenizer, cfg.data)), question.id) for question in long]
    longest, name = max(lengths, default=(0, ""))
    if longest > room:
        raise ValueError(
            f"model.max_length: {cfg.model.max_length} tokens are too few for the prompt of question {name} "
            f"({longest}) and a response of {max_new_tokens}; raise it, or lower max_new_tokens"
        )
