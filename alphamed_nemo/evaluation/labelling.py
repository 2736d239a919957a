"""Difficulty levels by asking the base model each question k times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alphamed_nemo.answers.protocols import extract_answer
from alphamed_nemo.config import Config
from alphamed_nemo.data.difficulty import with_levels
from alphamed_nemo.data.prompts import prompt_settings
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.engine import encode_checked, response_row
from alphamed_nemo.evaluation.grading import Progress
from alphamed_nemo.evaluation.journal import Journal, model_identity, questions_identity
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.sampling import seeds_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def label_questions(
    questions: Sequence[Question],
    pool: RolloutPool,
    tokenizer: PreTrainedTokenizerBase,
    cfg: Config,
    out_path: str | Path,
    on_progress: Progress | None = None,
) -> list[Question]:
    """The questions with their levels; the samples are graded by the training rule, `reward.protocol`.

    `metadata["tokens"]` of each is the length of the question alone in the model's tokens: with the share of effective
    queries, what the paper calls a data set's informativeness is judged by.

    Args:
        pool: of servers with the base model's weights.
        cfg: `label` (samples, sampling), `data` (prompt), `model.max_length`.
        out_path: JSON lines with every response; a run that was killed continues there.
        on_progress: called after every question.

    Raises:
        ValueError: a setting or a question cannot work, or `out_path` was begun under other settings.
        RolloutError: the servers failed; what was finished is kept.
    """
    label = cfg.label
    settings = {
        "weights": model_identity(cfg.model.path),
        "questions": questions_identity(questions),
        **prompt_settings(cfg.data),
        "samples": label.samples,
        "temperature": label.temperature,
        "top_p": label.top_p,
        "max_new_tokens": label.max_new_tokens,
        "seed": cfg.data.seed,
    }
    with Journal(Path(out_path), settings) as journal:
        missing = [question for question in questions if question.id not in journal.rows]
        prompts = encode_checked(missing, tokenizer, cfg, label.max_new_tokens)
        seeds = seeds_of(cfg.data.seed, (question.id for question in missing))
        groups = pool.stream(prompts, label.samples, label.temperature, label.top_p, label.max_new_tokens, seeds)
        for index, rollouts in groups if missing else ():
            journal.append({"id": missing[index].id, "responses": [response_row(rollout) for rollout in rollouts]})
            if on_progress:
                on_progress(len(journal.rows), len(questions))
    correct = {
        question.id: sum(
            extract_answer(response["text"], question.options, cfg.reward.protocol) == question.answer
            for response in journal.rows[question.id]["responses"]
        )
        for question in questions
    }
    tokens = [
        len(ids) for ids in tokenizer([question.stem for question in questions], add_special_tokens=False).input_ids
    ]
    labelled = with_levels(questions, correct, label.samples)
    return [
        replace(question, metadata=question.metadata | {"tokens": count})
        for question, count in zip(labelled, tokens, strict=True)
    ]
