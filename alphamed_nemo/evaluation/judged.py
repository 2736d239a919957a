"""Judging a file of answers: finished questions outlive a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from alphamed_nemo.config.file_writing import write_text
from alphamed_nemo.config.schema import JudgeConfig
from alphamed_nemo.evaluation.engine import parts_path, read_responses
from alphamed_nemo.evaluation.grading import Progress
from alphamed_nemo.evaluation.journal import Journal, model_identity
from alphamed_nemo.evaluation.judge import INSTRUCTION, Judge, OpenQuestion, read_open_questions, score, summary
from alphamed_nemo.provenance import release_identity


def judge_responses(
    cfg: JudgeConfig, key: str, model: str, label: str, out: Path, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Has every answer judged, and writes `out`.

    A question without an answer scores 0 and stays in the mean. Finished questions are kept beside `out`, and are not
    judged again by a second call with the same files and judge.

    Args:
        cfg: the judge, and the files of questions and answers.
        key: of the judge's endpoint.
        model: the folder of the model that gave the answers, so that its card can show the result; empty: not known.
        label: row name.
        out: <run>/eval/judged/<label>.json.
        on_progress: called after every question.

    Raises:
        ValueError: a file cannot be read as what it should be, or earlier parts belong to other settings.
        JudgeError: the judge failed; what was finished is kept.
    """
    judge = Judge(cfg, key)
    questions = read_open_questions(Path(cfg.questions))
    rows = read_responses(Path(cfg.responses), {question.id for question in questions})
    answers = {id: [response["text"] for response in row["responses"]] for id, row in rows.items()}
    settings = {
        "judge": cfg.model,
        "instruction": _hash(INSTRUCTION.encode()),
        "questions": _hash(Path(cfg.questions).read_bytes()),
        "responses": _hash(Path(cfg.responses).read_bytes()),
        "weights": model_identity(model),
        "release": release_identity(model) if model else None,
    }
    try:
        with Journal(parts_path(out), settings) as journal:
            missing = [question for question in questions if question.id not in journal.rows]
            for done in _each(judge, missing, answers, cfg.parallel):
                journal.append(done)
                if on_progress:
                    on_progress(len(journal.rows), len(questions))
    finally:
        judge.close()
    result = _result(label, settings, questions, journal.rows) | {"set": Path(cfg.questions).stem}
    write_text(out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    journal.path.unlink()
    return result


def _each(
    judge: Judge, questions: Sequence[OpenQuestion], answers: Mapping[str, list[str]], parallel: int
) -> Iterator[dict[str, Any]]:
    """Rows of the journal as they are finished; the first failure ends it, and no further question is begun."""
    with ThreadPoolExecutor(parallel) as pool:
        begun = {pool.submit(_judged, judge, question, answers.get(question.id, [])) for question in questions}
        try:
            for finished in as_completed(begun):
                yield finished.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _judged(judge: Judge, question: OpenQuestion, answers: Sequence[str]) -> dict[str, Any]:
    return {"id": question.id, "met": [judge.met(question, answer) for answer in answers]}


def _result(label: str, settings: dict, questions: Sequence[OpenQuestion], rows: Mapping[str, dict]) -> dict[str, Any]:
    judged = []
    for question in questions:
        met = rows[question.id]["met"]
        judged.append({"id": question.id, "score": fmean([score(question, one) for one in met] or [0.0]), "met": met})
    return {
        "label": label,
        "date": datetime.now(UTC).date().isoformat(),
        **summary([row["score"] for row in judged]),
        "without_answer": sum(not row["met"] for row in judged),
        "settings": settings,
        "questions": [
            row | {"criteria": [asdict(criterion) for criterion in question.criteria]}
            for row, question in zip(judged, questions, strict=True)
        ],
    }


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]
