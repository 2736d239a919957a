"""How long labelling and evaluating take: a server on all GPUs of one node answers every question."""

from __future__ import annotations

from alphamed_nemo.config import Config
from alphamed_nemo.plan.changes import apply
from alphamed_nemo.plan.costs import gpu_hours
from alphamed_nemo.plan.generation import generation_seconds, make_engine
from alphamed_nemo.plan.hardware import cluster_of
from alphamed_nemo.plan.lengths import make_workload
from alphamed_nemo.plan.passes import labelled_questions
from alphamed_nemo.plan.sizes import Model, load_model

THOUSAND = 1000  # questions, where nothing tells their number


def asking_seconds(cfg: Config, model: Model, questions: int, samples: int) -> float:
    """Seconds until each of `questions` has `samples` answers of the model, the server's start left out."""
    one_node = {"rollout.placement": "separate", "rollout.servers": 1, "plan.gpus": 0}
    node = apply(cfg, one_node)
    longest = min(cfg.rollout.max_new_tokens, cfg.model.max_length - round(cfg.plan.prompt_tokens))
    load = make_workload(
        questions * samples, samples, cfg.plan.prompt_tokens, min(cfg.plan.response_tokens, longest / 2), longest
    )
    cluster = cluster_of(node)
    return generation_seconds(node, cluster, model, load, make_engine(node, cluster, model, load))


def asking_text(cfg: Config, stage: str) -> str:
    """One line: time and GPU-hours of labelling, or of evaluating.

    Args:
        stage: label_difficulty or evaluate.
    """
    model = load_model(cfg.model.path)
    questions, samples = THOUSAND, cfg.evaluate.samples
    if stage == "label_difficulty":
        questions, samples = labelled_questions(cfg) or THOUSAND, cfg.label.samples
    seconds = asking_seconds(cfg, model, questions, samples)
    hours = gpu_hours(seconds, 1, cfg.plan.gpus_per_node)
    used = f"{hours:.1f}" if hours >= 0.1 else "less than 0.1"
    time = f"{seconds / 60:.0f} min" if seconds >= 60 else "less than a minute"
    return (
        f"predicted {time} and {used} GPU-hours for {questions:,} questions × {samples} samples "
        f"of {cfg.plan.response_tokens:g} tokens on {cfg.plan.gpus_per_node} × {cfg.plan.gpu}, once the server is up"
    )
