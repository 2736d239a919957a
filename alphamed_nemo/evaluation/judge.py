"""Answers in free text, judged by rubrics as HealthBench does: a model that is none of ours says what an answer meets.

The score of a question is the points of the criteria that are met over the points that could be gained, so criteria
with negative points take away; the score of a set is the mean, clipped to 0..1 (Arora et al. 2025, section 4). The
instruction to the judge is our own, so scores are comparable with each other and not with published ones.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import httpx

from alphamed_nemo.config.schema import JudgeConfig
from alphamed_nemo.data.text_files import parse_json, read_text
from alphamed_nemo.errors import JudgeError
from alphamed_nemo.evaluation.stats import Z_95
from alphamed_nemo.patience import PASSING, found, pause_s

ATTEMPTS = 5  # at one criterion: at reaching the judge, and at reading what it says
INSTRUCTION = """You judge whether the last answer of a conversation meets one criterion.

Conversation:
{conversation}

Criterion:
{criterion}

A criterion may describe something undesirable: it is met if the answer does what it describes, whether that is good \
or bad. If it names several things, all of them are needed, unless it says otherwise. Reply with JSON alone: \
{{"explanation": "<one sentence>", "criteria_met": true}} or the same with false."""
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)


@dataclass(frozen=True)
class Criterion:
    """What an answer is looked through for, and the points that it gives, or takes where they are negative."""

    text: str
    points: float


@dataclass(frozen=True)
class OpenQuestion:
    """A conversation that ends with a user's turn, and the criteria for its answer."""

    id: str
    conversation: tuple[Mapping[str, str], ...]
    criteria: tuple[Criterion, ...]


def read_open_questions(path: Path) -> list[OpenQuestion]:
    """Questions as HealthBench's authors publish them: JSON lines with prompt_id, prompt and rubrics.

    Raises:
        ValueError: a line has another form, gives no points, or repeats an id; names file and line.
    """
    questions: dict[str, OpenQuestion] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: Any = parse_json(line)
            id = str(row["prompt_id"])
            turns = tuple({key: str(turn[key]) for key in ("role", "content")} for turn in row["prompt"])
            criteria = tuple(Criterion(str(item["criterion"]), float(item["points"])) for item in row["rubrics"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected prompt_id, prompt ([{{role, content}}]) and rubrics ([{{criterion, "
                f"points}}]), found {line[:80]!r} ({type(error).__name__}: {error})"
            ) from error
        if id in questions or not any(criterion.points > 0 for criterion in criteria):
            reason = "the prompt_id is there twice" if id in questions else "no criterion gives points"
            raise ValueError(f"{path}, line {number}: question {id}: {reason}")
        questions[id] = OpenQuestion(id, turns, criteria)
    if not questions:
        raise ValueError(f"{path}: holds no questions")
    return list(questions.values())


class Judge:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        cfg: its URL, name and limits.
        key: bearer token; empty: none is sent.
    """

    def __init__(self, cfg: JudgeConfig, key: str) -> None:
        if not cfg.url.startswith(("http://", "https://")) or not cfg.model:
            raise ValueError(
                f"judge.url={cfg.url!r}, judge.model={cfg.model!r}: expected the URL of an OpenAI-compatible endpoint, "
                "such as https://host/v1, and the name of the model that judges"
            )
        self.cfg = cfg
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=cfg.url.rstrip("/") + "/", headers=headers, timeout=cfg.timeout_s)

    def close(self) -> None:
        self._http.close()

    def met(self, question: OpenQuestion, answer: str) -> list[bool]:
        """Which criteria an answer meets, in their order. An empty answer meets none, and is not sent.

        Raises:
            JudgeError: five attempts at a criterion failed, or the endpoint refuses.
        """
        if not answer.strip():
            return [False] * len(question.criteria)
        turns = [*question.conversation, {"role": "assistant", "content": answer}]
        conversation = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        asked = [INSTRUCTION.format(conversation=conversation, criterion=c.text) for c in question.criteria]
        return [self._ask(question.id, prompt) for prompt in asked]

    def _ask(self, id: str, prompt: str) -> bool:
        request = {
            "model": self.cfg.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.cfg.max_tokens,
            "temperature": 0,
        }
        reason = ""
        for attempt in range(1, ATTEMPTS + 1):
            headers = None
            try:
                answer = self._http.post("chat/completions", json=request)
                if answer.is_success:
                    verdict = verdict_of(answer.content)
                    if verdict is not None:
                        return verdict
                elif answer.status_code not in PASSING:
                    raise JudgeError(f"{self.cfg.url} refused: {answer.status_code} {found(answer.content)}")
                reason, headers = f"{answer.status_code} {found(answer.content)}", answer.headers
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            if attempt < ATTEMPTS:
                time.sleep(pause_s(attempt, headers))
        raise JudgeError(
            f"{self.cfg.url}: no verdict on question {id} in {ATTEMPTS} attempts, the last: {reason}; expected JSON "
            "with criteria_met, true or false; the same command continues after the questions that are judged"
        )


def verdict_of(body: bytes) -> bool | None:
    """Whether the criterion is met, from a chat completion; None where that is not said in so many words."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
        shown = _OBJECT.search(text.rpartition("</think>")[2])
        said = json.loads(shown[0])["criteria_met"] if shown else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    return said if isinstance(said, bool) else None


def score(question: OpenQuestion, met: Sequence[bool]) -> float:
    """Points of the criteria that are met over those that could be gained; negative where faults outweigh."""
    gained = sum(criterion.points for criterion, is_met in zip(question.criteria, met, strict=True) if is_met)
    return gained / sum(criterion.points for criterion in question.criteria if criterion.points > 0)


def summary(scores: Sequence[float]) -> dict[str, float | list[float] | int]:
    """The set's score in 0..1, with a normal 95% interval of the mean over questions."""
    mean = fmean(scores)
    spread = Z_95 * stdev(scores) / sqrt(len(scores)) if len(scores) > 1 else 1.0
    low, middle, high = (min(max(value, 0.0), 1.0) for value in (mean - spread, mean, mean + spread))
    return {"score": middle, "interval": [low, high], "n": len(scores)}
