"""The training settings of a model card, in words."""

from __future__ import annotations

from collections.abc import Callable

from alphamed_nemo.export.training_record import TrainingRecord
from alphamed_nemo.user_code import is_place, name_of


def training_rows(record: TrainingRecord) -> list[tuple[str, str]]:
    """(setting, value) of what decides the training; empty where no run is known.

    A row whose settings config.yaml does not have is left out, and so is what was off.
    """
    if not record.settings:
        return []
    rows = []
    for name, words in _ROWS.items():
        try:
            value = words(record)
        except KeyError:  # written by a version that did not have the setting
            continue
        if value:
            rows.append((name, value))
    return rows


def _steps(record: TrainingRecord) -> str:
    planned, updates = record["grpo.steps"], record["grpo.updates_per_batch"] * record["grpo.epochs"]
    text = str(record.step) if planned == record.step else f"{record.step} of {planned} planned"
    text += f", {updates} updates each" if updates > 1 else ""
    return text if record.passes is None else f"{text}; {record.passes:.2f} passes over the questions"


def _batch(record: TrainingRecord) -> str:
    return f"{record['grpo.questions_per_step']} questions × {record['grpo.samples_per_question']} samples per step"


def _reward(record: TrainingRecord) -> str:
    rule = f"rule `{record['reward.protocol']}`"
    functions = record.reward_functions
    if not functions:
        return f"1 where the final answer is correct, else 0; {rule}"
    return " + ".join(f"{weight:g} × `{name}`" for name, weight in functions.items()) + f"; {rule}"


def _loss(record: TrainingRecord) -> str:
    low, high = record["grpo.clip_low"], record["grpo.clip_high"]
    text = f"`{record['grpo.loss']}`"
    if is_place(record["grpo.loss"]):
        text = f"`{name_of(record['grpo.loss'])}`, a function of this run's own"
    else:
        text += f", ratio clipped at 1 − {low} and 1 + {high}"
    text += f", dual clip {record['grpo.dual_clip']}" if record["grpo.dual_clip"] else ""
    text += f", entropy bonus {record['grpo.entropy_coef']}" if record["grpo.entropy_coef"] else ""
    return f"{text}; aggregation `{record['grpo.aggregation']}`"


def _kl(record: TrainingRecord) -> str:
    weight = record["grpo.kl_coef"]
    falling = ", falling linearly to 0" if record.get("grpo.kl_schedule", "constant") == "linear" else ""
    return f"{weight}{falling}, estimator `{record['grpo.kl_estimator']}`" if weight else "none"


def _overlong(record: TrainingRecord) -> str:
    zone = record["grpo.overlong_penalty_tokens"]
    return f"over the last {zone} tokens" if zone else ""


def _correction(record: TrainingRecord) -> str:
    return "" if record["grpo.correction"] == "none" else f"`{record['grpo.correction']}`"


def _order(record: TrainingRecord) -> str:
    order = record["grpo.curriculum"]
    if order == "pools":
        easy, hard = record["grpo.pool_easy"], record["grpo.pool_hard"]
        return f"pools: {easy:g} of a batch from questions last answered right alone, {hard:g} from those never right"
    return "shuffled in every pass" if order == "none" else f"`{order}`"


def _sampling(record: TrainingRecord) -> str:
    text = f"vLLM, temperature {record['rollout.temperature']}, top-p {record['rollout.top_p']}"
    dtype = record["rollout.dtype"] if record["rollout.dtype"] != "auto" else record.dtype
    return ", ".join(filter(None, [text, dtype, record.get("rollout.quantization")]))


def _lengths(record: TrainingRecord) -> str:
    response, whole = record["rollout.max_new_tokens"], record["model.max_length"]
    return f"at most {response} tokens in a response" + (f", {whole} with the prompt" if whole else "")


def _lora(record: TrainingRecord) -> str:
    rank = record["lora.rank"]
    layers = ", ".join(f"`{target}`" for target in record["lora.targets"])
    return f"LoRA of rank {rank}, alpha {record['lora.alpha']:g}, on {layers}, merged" if rank else ""


def _optimizer(record: TrainingRecord) -> str:
    text = f"AdamW, learning rate {float(record['optim.lr']):g}, {record['optim.schedule']}"
    text += f", {record['optim.warmup_steps']} warm-up steps" if record["optim.warmup_steps"] else ""
    text += f", weight decay {record['optim.weight_decay']:g}"
    clip = record["optim.clip_grad"]
    return f"{text}, gradient norm clipped at {clip:g}" if clip else text


def _precision(record: TrainingRecord) -> str:
    fp8, head = record.get("model.fp8"), record.get("model.head_dtype", "model")
    text = f"{record.dtype}, FP8 linear layers ({fp8})" if fp8 else record.dtype
    return text if head in ("model", record.dtype) else f"{text}, logits in {head} (sampling, too)"


def _layout(record: TrainingRecord) -> str:
    sizes = {name: record[f"parallel.{name}"] for name in ("tensor", "pipeline", "context", "data")}
    return "Megatron-Core, " + " × ".join(f"{name} {n}" for name, n in sizes.items() if n > 1 or name != "context")


def _versions(record: TrainingRecord) -> str:
    return ", ".join(f"{name} {record.made_with[name]}" for name in ("torch", "megatron") if name in record.made_with)


_ROWS: dict[str, Callable[[TrainingRecord], str]] = {
    "steps": _steps,
    "batch": _batch,
    "advantage": lambda record: f"`{record['grpo.advantage']}`",
    "loss": _loss,
    "KL to the base model": _kl,
    "groups without a gradient": lambda record: "replaced" if record["grpo.dynamic_sampling"] else "kept",
    "order of the questions": _order,
    "age of the samples": lambda record: f"up to {record['grpo.staleness']} step" if record["grpo.staleness"] else "",
    "correction for the rollout engine": _correction,
    "penalty for long responses": _overlong,
    "truncated responses": lambda record: "not trained on" if record["grpo.mask_truncated"] else "",
    "reward": _reward,
    "sampling": _sampling,
    "lengths": _lengths,
    "adapters": _lora,
    "optimizer": _optimizer,
    "precision": _precision,
    "layout": _layout,
    "seed": lambda record: str(record["run.seed"]),
    "trained with": _versions,
}
