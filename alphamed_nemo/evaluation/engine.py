"""Asking a model a list of questions and grading what it says; or grading what it said before."""

from __future__ import annotations

import codecs
import gc
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from alphamed_nemo.answers.reasoned import reasons
from alphamed_nemo.config import Config
from alphamed_nemo.data.prompts import encode_prompts, prompt_settings
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.grading import Progress, check_protocol, grade_set
from alphamed_nemo.evaluation.journal import Journal, model_identity, questions_identity
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.provenance import release_identity
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.sampling import seeds_of
from alphamed_nemo.rollout.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def evaluate(
    questions: Sequence[Question],
    pool: RolloutPool,
    tokenizer: PreTrainedTokenizerBase,
    cfg: Config,
    label: str,
    out_path: str | Path,
    force_prefix: str = "",
    on_progress: Progress | None = None,
) -> EvaluationResult:
    """Asks every question `evaluate.samples` times and writes `out_path`.

    Each finished question is appended to `<out_path>.parts.jsonl` at once; a run that was killed continues there. An
    `out_path` that is complete under the same settings, questions and weights is returned without asking.

    Args:
        questions: all of them stay in the denominator.
        pool: serves the model.
        tokenizer: the model's.
        cfg: `evaluate` (protocol, samples, sampling), `data` (prompt), `run.seed`, `model.max_length`.
        label: row name.
        out_path: eval/<label>.json.
        force_prefix: text that every response is made to begin with; graded as part of the response.
        on_progress: called after every question.

    Raises:
        ValueError: a setting or a question cannot work, or the parts were begun under other settings.
        RolloutError: the servers failed; what was finished is kept.
    """
    asked, out = cfg.evaluate, Path(out_path)
    settings = _settings(questions, pool, cfg, force_prefix)
    done = _complete(out, settings, label)
    if done is not None:
        return done
    with Journal(parts_path(out), settings) as journal:
        missing = [question for question in questions if question.id not in journal.rows]
        prompts = encode_checked(missing, tokenizer, cfg, asked.max_new_tokens, force_prefix)
        groups = pool.stream(
            prompts,
            n=asked.samples,
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_new_tokens=asked.max_new_tokens,
            seed=seeds_of(cfg.run.seed, (question.id for question in missing)),
            stop=asked.stop or (),
        )
        for index, rollouts in groups if missing else ():
            responses = [response_row(rollout, force_prefix) for rollout in rollouts]
            journal.append({"id": missing[index].id, "responses": responses})
            if on_progress:
                on_progress(len(journal.rows), len(questions))
    result = build_result(label, settings, questions, journal.rows)
    result.write(out)
    journal.path.unlink()
    return result


def score_saved(
    questions: Sequence[Question],
    responses_path: str | Path,
    protocol: str,
    label: str,
    out_path: str | Path,
    on_progress: Progress | None = None,
) -> EvaluationResult:
    """Grades responses saved as JSON lines, without a model, and writes `out_path`.

    A row has `id` (or `question_id`) and `response` (a text), or `responses` (a list of texts). Several rows of one
    question are its samples. A question without a row is unanswered, hence wrong.

    Raises:
        ValueError: a row is unreadable, not UTF-8, or names a question that was not asked; the message names the line.
    """
    check_protocol(protocol)
    with _collection_paused():
        rows = read_responses(Path(responses_path), {question.id for question in questions})
        samples = max((len(row["responses"]) for row in rows.values()), default=1)
        settings = {
            "model": "",
            "protocol": protocol,
            "samples": samples,
            "force_prefix": "",
            "responses": str(responses_path),
            "questions": questions_identity(questions),
        }
        result = build_result(label, settings, questions, rows, on_progress)
        result.write(Path(out_path))
    return result


@contextmanager
def _collection_paused() -> Iterator[None]:
    """No search for cycles while many small objects are made that have none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_responses(path: Path, known: set[str]) -> dict[str, dict]:
    """Saved responses by question id; see `score_saved`."""
    rows: dict[str, dict] = {}
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = _decoded(line)
            id = record["id"] if "id" in record else record["question_id"]
            texts = record["responses"] if "responses" in record else [record["response"]]
            texts = [text["text"] if isinstance(text, dict) else text for text in texts]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected an object with id and response (or responses), "
                f"found {line.decode(errors='replace')[:80]!r} ({type(error).__name__})"
            ) from error
        if id not in known or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"{path}, line {number}: question {id!r} is not among those asked, or a response is no text"
            )
        rows.setdefault(id, {"id": id, "responses": []})["responses"] += [{"text": _readable(text)} for text in texts]
    return rows


def _decoded(line: bytes) -> Any:
    """The JSON of a line: by msgspec, which is fast and strict; what it refuses by json, which takes more."""
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:
        return json.loads(line.decode())


def _readable(text: str) -> str:
    """`text` with a question mark for every half of a character, which JSON can escape and no file can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def parts_path(out: Path) -> Path:
    """Where the rows of an unfinished evaluation are."""
    return out.with_name(f"{out.name}.parts.jsonl")


def encode_checked(
    questions: Iterable[Question], tokenizer, cfg: Config, max_new_tokens: int, prefix: str = ""
) -> list[list[int]]:
    """Prompts of `questions`, checked to leave room for the response.

    Raises:
        ValueError: a prompt and its response do not fit into model.max_length; counts them and names the longest.
    """
    questions = list(questions)
    if len({question.id for question in questions}) < len(questions):
        raise ValueError("questions: an id occurs twice; every question needs an id of its own")
    prompts = encode_prompts(questions, tokenizer, cfg.data, prefix)
    room = cfg.model.max_length - max_new_tokens
    too_long = [(len(ids), question.id) for ids, question in zip(prompts, questions, strict=True) if len(ids) > room]
    if too_long:
        longest, id = max(too_long)
        raise ValueError(
            f"model.max_length={cfg.model.max_length}: {len(too_long)} of {len(prompts)} prompts leave no room for "
            f"{max_new_tokens} new tokens (the longest, question {id}, has {longest}); raise model.max_length to "
            f"at least {longest + max_new_tokens}, or lower max_new_tokens"
        )
    return prompts


def response_row(rollout: Rollout, prefix: str = "") -> dict:
    """What is kept of a response; `length` in sampled tokens."""
    return {"text": prefix + rollout.text, "length": len(rollout.response_ids), "truncated": rollout.truncated}


def build_result(
    label: str,
    settings: dict,
    questions: Sequence[Question],
    rows: dict[str, dict],
    on_progress: Progress | None = None,
) -> EvaluationResult:
    """Grades of all questions from the rows of those that were answered."""
    if not questions:
        raise ValueError(f"evaluation {label!r}: no questions; give a question file with at least one")
    texts = {id: [response["text"] for response in row["responses"]] for id, row in rows.items()}
    responses = [response for row in rows.values() for response in row["responses"]]
    return EvaluationResult(
        label=label,
        settings=settings,
        grades=grade_set(questions, texts, settings["protocol"], on_progress),
        rows=rows,
        reasoned_ratio=_mean([reasons(response["text"]) for response in responses]),
        mean_length=_mean([response["length"] for response in responses if "length" in response]),
        truncated_ratio=_mean([response["truncated"] for response in responses if "truncated" in response]),
        date=datetime.now(UTC).date().isoformat(),
    )


def _mean(values: list) -> float | None:
    return sum(values) / len(values) if values else None


def _settings(questions: Sequence[Question], pool: RolloutPool, cfg: Config, force_prefix: str) -> dict:
    """Everything that the result depends on."""
    asked = cfg.evaluate
    check_protocol(asked.protocol)
    if asked.samples < 1:
        raise ValueError(f"evaluate.samples={asked.samples}: expected at least 1")
    model = asked.model or cfg.model.path
    release = release_identity(model)
    return {
        "model": model,
        "weights": model_identity(model),
        **({"release": release} if release else {}),
        "weight_version": pool.weight_version(),
        "questions": questions_identity(questions),
        **prompt_settings(cfg.data),
        "force_prefix": force_prefix,
        "protocol": asked.protocol,
        "samples": asked.samples,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "max_new_tokens": asked.max_new_tokens,
        "seed": cfg.run.seed,
        **({"stop": list(asked.stop)} if asked.stop else {}),
    }


def _complete(out: Path, settings: dict, label: str) -> EvaluationResult | None:
    """The result at `out` where it answers exactly what is asked now."""
    if not out.exists():
        return None
    try:
        result = EvaluationResult.read(out)
    except ValueError as error:
        log.warning("%s; it will be written again", error)
        return None
    if result.settings != settings or result.label != label:
        return None
    log.info("%s is complete under these settings; nothing to ask", out)
    return result
