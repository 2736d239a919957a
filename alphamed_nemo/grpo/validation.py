"""How good the policy is, while it trains, on questions that it is not trained on; and where that ends the training.

The servers that sample its rollouts answer the same questions each time, greedily, after a refit and before the next
batch. The answers are graded as an evaluation grades them, and kept as one: validation/step_<n>.json.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import ACCURACY, RunFolder, by_step, step_name
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.prompts import prompt_settings
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.strata import stratified
from alphamed_nemo.evaluation.engine import build_result, encode_checked, response_row
from alphamed_nemo.evaluation.journal import questions_identity
from alphamed_nemo.evaluation.paired import paired_difference
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.stats import pass_at_k
from alphamed_nemo.grpo.recovery import RolloutPlane
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.sampling import seeds_of

ENDINGS = {"greedy": ".json", "samples": ".samples.json"}  # of a validation's files

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What a validation means for the run.

    Attributes:
        accuracy: share of the questions that are answered correctly; None where none was due.
        stop: the training ends here.
    """

    accuracy: float | None = None
    stop: bool = False


class Validation:
    """The validations of a run. Its methods but `due` are collective.

    Args:
        cfg: `validate`.
        rollouts: the servers, as all ranks see them.
        validator: on rank 0; None elsewhere, and where nothing is validated.
    """

    def __init__(self, cfg: Config, rollouts: RolloutPlane, validator: Validator | None) -> None:
        self.cfg, self.rollouts, self.validator = cfg, rollouts, validator

    def due(self, step: int) -> bool:
        """Whether the weights after `step` are validated."""
        every = self.cfg.validate.every
        return every > 0 and (step % every == 0 or step == self.cfg.grpo.steps)

    def resume(self, step: int) -> Verdict:
        """What the run had come to after `step`, once later validations are forgotten; no accuracy where it is not
        known: the run was asked to stop before, or did not validate then."""
        return self.rollouts.exchange.from_rank0(lambda: self.validator.rewind(step) if self.validator else Verdict())

    def after(self, step: int) -> Verdict:
        """Validates the weights after `step`, where that is due.

        Raises:
            RolloutError: a server refused, or all of them were lost, too often.
        """
        if not self.due(step):
            return Verdict()

        def ask() -> Verdict:
            assert self.validator is not None, "rank 0 has it"
            return self.validator.validate(step)

        return self.rollouts.served(step, ask, "its validation is asked again")


class Validator:
    """Asks, grades and records. Rank 0 only.

    Args:
        cfg: `validate`, and what prompts and answers depend on.
        pool: the rollout servers.
        tokenizer: the model's.
        write: keeps (step, metrics, rows of a table of answers).

    Raises:
        ValueError: a question file cannot be read, or a prompt leaves no room for its answer.
    """

    def __init__(
        self,
        cfg: Config,
        pool: RolloutPool,
        tokenizer,
        write: Callable[[int, dict[str, float], list[dict[str, Any]]], None],
    ) -> None:
        self.cfg, self.pool, self.write = cfg, pool, write
        self.folder = RunFolder.of(cfg).validation
        self.questions = validation_questions(cfg)
        self.prompts = encode_checked(self.questions, tokenizer, cfg, cfg.rollout.max_new_tokens)
        self.results: dict[int, EvaluationResult] = {}  # greedy ones, by step

    def rewind(self, step: int) -> Verdict:
        """Forgets what an earlier attempt found after `step`, and reads the rest. A validation counts once it is in the
        metrics, which are rewound already."""
        recorded = self._recorded()
        for ending in ENDINGS.values():
            for number, path in by_step(self.folder, ending).items():
                if number > step or number not in recorded:
                    path.unlink()
                elif ending == ENDINGS["greedy"]:
                    self._read(path, number)
        return self._verdict(step) if step in self.results else Verdict()

    def validate(self, step: int) -> Verdict:
        """Raises: RolloutError; RolloutLost: all servers were lost; OSError: the disk refuses, names the file."""
        started = time.perf_counter()
        result = self._ask(step, samples=1, temperature=0.0, top_p=1.0)
        metrics = of_greedy(result, self.results.get(0))
        if samples := self.cfg.validate.samples:
            rollout = self.cfg.rollout
            sampled = self._ask(step, samples, rollout.temperature, rollout.top_p)
            sampled.write(self._file(step, "samples"))
            metrics |= of_samples(sampled)
        result.write(self._file(step, "greedy"))
        self.results[step] = result
        answers = answer_rows(result, self.questions[: self.cfg.validate.table_rows])
        self.write(step, metrics | {"timing/validation": time.perf_counter() - started}, answers)
        return self._verdict(step)

    def _ask(self, step: int, samples: int, temperature: float, top_p: float) -> EvaluationResult:
        cfg = self.cfg
        asked = self.pool.generate(
            self.prompts,
            n=samples,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=cfg.rollout.max_new_tokens,
            seed=seeds_of(cfg.run.seed, (question.id for question in self.questions)),
        )
        rows = {
            question.id: {"id": question.id, "responses": [response_row(rollout) for rollout in rollouts]}
            for question, rollouts in zip(self.questions, asked, strict=True)
        }
        settings = self._comparable() | {"samples": samples, "temperature": temperature, "top_p": top_p}
        return build_result(f"step {step}", settings | {"weight_version": step}, self.questions, rows)

    def _verdict(self, step: int) -> Verdict:
        result, validate = self.results[step], self.cfg.validate
        earlier = {number: found for number, found in self.results.items() if number < step}
        why = None
        if validate.stop_at and result.accuracy >= validate.stop_at:
            why = f"validate.stop_at={validate.stop_at:g} is reached"
        elif validate.stop_falling and earlier:
            planned = 1 + ceil(self.cfg.grpo.steps / validate.every)
            why = fallen(result, earlier, validate.stop_falling, planned)
        if why is not None:
            log.warning(
                "validation after step %d: accuracy %.1f%%; training ends: %s", step, 100 * result.accuracy, why
            )
        return Verdict(result.accuracy, why is not None)

    def _read(self, path: Path, step: int) -> None:
        """One that answers the questions of now, in the same way."""
        try:
            result = EvaluationResult.read(path)
        except ValueError as error:
            log.warning("%s; the validation of step %d is left out of comparisons", error, step)
            return
        wanted = self._comparable()
        if {name: result.settings.get(name) for name in wanted} == wanted:
            self.results[step] = result
        else:
            log.warning("%s: other questions or prompts than now; left out of comparisons", path)

    def _recorded(self) -> set[int]:
        """Steps whose validation is in metrics.jsonl."""
        path = RunFolder.of(self.cfg).metrics
        rows = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        return {row["step"] for row in rows if ACCURACY in row}

    def _comparable(self) -> dict:
        """What two validations must share to be compared."""
        return {
            "model": "",
            "protocol": self.cfg.evaluate.protocol,
            "questions": questions_identity(self.questions),
            **prompt_settings(self.cfg.data),
            "max_new_tokens": self.cfg.rollout.max_new_tokens,
        }

    def _file(self, step: int, kind: str) -> Path:
        return self.folder / step_name(step, ENDINGS[kind])


def validation_questions(cfg: Config) -> list[Question]:
    """The questions that every validation of a run asks, in the order of the files.

    Raises:
        ValueError: a file cannot be read, holds none, or shares a question with another.
    """
    found: list[Question] = []
    for path in cfg.validate.questions:
        drawn = stratified(read_questions(path), cfg.validate.size, cfg.data.seed)
        if not drawn:
            raise ValueError(f"validate.questions: {path} holds no question")
        found += drawn
    if len({question.id for question in found}) < len(found):
        raise ValueError(f"validate.questions: {', '.join(cfg.validate.questions)} share a question")
    return found


def of_greedy(result: EvaluationResult, base: EvaluationResult | None) -> dict[str, float]:
    """Metrics of one validation: accuracy with Wilson's interval, by data set where there are several, and how it
    compares with the model before training (McNemar's exact test, Newcombe's paired interval).

    Args:
        result: of greedy answers.
        base: the same before the first step; None where it is not known, or is this one.
    """
    summary = result.summary
    metrics = {
        "accuracy": summary.accuracy,
        "accuracy_low": summary.interval[0],
        "accuracy_high": summary.interval[1],
        "questions": float(summary.n),
        "unparsable_ratio": summary.unanswered,
        "response_length": result.mean_length or 0.0,
        "truncated_ratio": result.truncated_ratio or 0.0,
    }
    if summary.guessing is not None:
        metrics["guessing"] = summary.guessing
    if len(result.by_dataset) > 1:
        metrics |= {f"accuracy/{name}": part.accuracy for name, part in result.by_dataset.items()}
    if base is not None:
        gain = paired_difference(_right(base), _right(result))
        metrics |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "p": result.compare(base).p}
    return {f"validation/{name}": value for name, value in metrics.items()}


def answer_rows(result: EvaluationResult, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Greedy answers to the first of a validation's questions, as loggers show them: one row each, no cell nested.

    Args:
        result: of greedy answers.
        questions: a beginning of those asked, in their order.
    """
    rows = []
    for question, grade in zip(questions, result.grades, strict=False):
        (response,), (answer,) = result.rows[question.id]["responses"], grade.answers
        rows.append(
            {
                "question_id": question.id,
                "dataset": question.dataset,
                "level": question.level,
                "question": question.stem,
                "options": "\n".join(f"{letter}: {option}" for letter, option in question.shown),
                "key": question.answer,
                "answer": answer,
                "right": grade.majority_correct,
                "response": response["text"],
                "tokens": response["length"],
                "truncated": response["truncated"],
            }
        )
    return rows


def of_samples(result: EvaluationResult) -> dict[str, float]:
    """Metrics of several samples per question: their mean, their majority, and whether one of them is right."""
    n = result.samples
    passed = [pass_at_k(sum(grade.correct), n, n) for grade in result.grades]
    return {
        f"validation/mean@{n}": result.accuracy,
        f"validation/maj@{n}": result.summary.majority,
        f"validation/pass@{n}": sum(passed) / len(passed),
    }


def fallen(
    result: EvaluationResult, earlier: Mapping[int, EvaluationResult], chance: float, planned: int
) -> str | None:
    """Whether accuracy has fallen below the best validation so far, beyond chance; says so, or None.

    The best so far is one that chance has favoured, so the test allows for every pair of validations that the run may
    compare: one-sided McNemar below chance / pairs (Bonferroni). Of runs whose accuracy never falls, no more than
    `chance` end by it, however many validations they have.

    Args:
        result: the newest.
        earlier: those before it, by step.
        chance: 0..1, of the whole run.
        planned: validations that the run has in all.
    """
    step, best = max(earlier.items(), key=lambda item: (item[1].accuracy, -item[0]))
    test, pairs = result.compare(best), planned * (planned - 1) / 2
    if test.only_first >= test.only_second or test.p / 2 >= chance / pairs:
        return None
    return (
        f"{test.only_second} questions were right only after step {step}, {test.only_first} only now "
        f"(one-sided p = {test.p / 2:.1e}, limit {chance / pairs:.1e})"
    )


def _right(result: EvaluationResult) -> Sequence[float]:
    return [float(grade.majority_correct) for grade in sorted(result.grades, key=lambda grade: grade.id)]
