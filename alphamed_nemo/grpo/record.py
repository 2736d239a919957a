"""What a run writes down: one JSON line of metrics a step, sample responses, and the loggers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from alphamed_nemo.config.file_writing import whole_file, write_text, writing
from alphamed_nemo.config.run_folder import RunFolder, by_step, step_name
from alphamed_nemo.grpo.collect import Collected
from alphamed_nemo.grpo.kept_rollouts import write_rollouts

VALIDATION_TABLE = "validation/answers"

log = logging.getLogger(__name__)


class Logger(Protocol):
    """Where metrics go besides the run folder."""

    def __call__(self, metrics: dict[str, float], step: int) -> None: ...

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Shows rows of the same keys as a table, where it can."""

    def rewind(self, step: int) -> None:
        """Forgets what it was given after `step`."""


class RunRecord:
    """Writes `metrics.jsonl` and `samples/step_<n>.jsonl` in the run folder and feeds the loggers. Rank 0 only.

    Args:
        folder: the run folder.
        decode: token ids to text, special tokens included, so that samples show each prompt as it was sent.
        keep_rollouts: whether all responses are kept as well, in `rollouts/`.
        samples_kept: responses per step that go into the samples file, whole groups first to last.
        devices: ranks plus rollout devices, for throughput per device.
        peak: operations per second of all ranks' cards together; None where they are not known, and there is no MFU.
        loggers: each gets (metrics, step), a table of each validation, and hears of a rewind.
    """

    def __init__(
        self,
        folder: RunFolder,
        decode: Callable[[list[int]], str],
        keep_rollouts: bool,
        samples_kept: int,
        devices: int,
        loggers: list[Logger],
        peak: float | None = None,
    ) -> None:
        self.path = folder.metrics
        self.folder, self.samples = folder, folder.samples
        self.samples.mkdir(parents=True, exist_ok=True)
        self.keep_rollouts = keep_rollouts
        self.decode = decode
        self.samples_kept = samples_kept
        self.devices = devices
        self.peak = peak
        self.loggers = loggers

    def write(self, step: int, metrics: dict[str, float], timing: dict[str, float], collected: Collected) -> None:
        """Raises: OSError: the disk refuses; names the file."""
        rollouts = [rollout for group in collected.groups for rollout in group.rollouts]
        tokens = sum(len(rollout.response_ids) for rollout in rollouts)
        of_step = tokens + sum(len(rollout.prompt_ids) for rollout in rollouts)
        row = {"step": step, **metrics, **{f"timing/{name}": value for name, value in timing.items()}}
        row["throughput/generated_tokens_per_s"] = tokens / max(timing["generation"], 1e-9) / self.devices
        row["throughput/trained_tokens_per_s"] = (
            metrics["processed_tokens"] / max(timing["training"], 1e-9) / self.devices
        )
        # Of prompts and responses, over the whole step: what other trainers publish.
        row["throughput/tokens_per_s_per_device"] = of_step / timing["step"] / self.devices
        if self.peak is not None:
            row["throughput/mfu"] = metrics["training_operations"] / max(timing["training"], 1e-9) / self.peak
        self._write_samples(step, collected)
        if self.keep_rollouts:
            write_rollouts(self.folder.rollouts_of(step), step, collected)
        self._append(row)

    def write_validation(self, step: int, metrics: dict[str, float], answers: Sequence[Mapping[str, Any]] = ()) -> None:
        """A row of its own: the weights after `step` are validated once the step is recorded, and those before the
        first one under step 0.

        Args:
            step: after which.
            metrics: of the validation.
            answers: rows of a table, for the loggers.

        Raises: OSError: the disk refuses; names the file.
        """
        self._append({"step": step, **metrics})
        for logger in self.loggers if answers else ():
            logger.table(VALIDATION_TABLE, answers, step)

    def _append(self, row: dict) -> None:
        with writing(self.path), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint of this step, so that no saved step is without its row
        for logger in self.loggers:
            logger({name: value for name, value in row.items() if name != "step"}, row["step"])

    def rewind(self, step: int) -> None:
        """Forgets what an earlier attempt wrote after `step`, so that a resumed run has no step twice.

        A row that is torn, as a full disk or a lost node leaves it, is dropped with a warning: no resume fails of it.
        """
        for written in (by_step(self.samples, ".jsonl"), by_step(self.folder.rollouts, ".parquet")):
            for later in (path for number, path in written.items() if number > step):
                later.unlink()
        for logger in self.loggers:
            logger.rewind(step)
        if not self.path.exists():
            return
        kept = []
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            found = _step_of(line)
            if found is None:
                log.warning("%s, line %d: no row of metrics, dropped", self.path, number)
            elif found <= step:
                kept.append(line + b"\n")
        with whole_file(self.path) as part, part.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())

    def _write_samples(self, step: int, collected: Collected) -> None:
        rows: list[dict] = []
        for group in collected.groups:
            if len(rows) >= self.samples_kept:
                break
            prompt = self.decode(group.rollouts[0].prompt_ids)
            rows += [
                {
                    "question_id": group.question.id,
                    "question": group.question.stem,
                    "prompt": prompt,
                    "options": list(group.question.options),
                    "answer": group.question.answer,
                    "response": rollout.text,
                    "extracted": score.answer,
                    "reward": score.reward,
                    **({"parts": score.parts} if score.parts else {}),
                    "truncated": rollout.truncated,
                    "length": len(rollout.response_ids),
                }
                for rollout, score in zip(group.rollouts, group.scores, strict=True)
            ]
        path = self.samples / step_name(step, ".jsonl")
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows[: self.samples_kept]))


def _step_of(line: bytes) -> int | None:
    """The step of a row; None where the line is no row."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):  # ValueError: also bytes that are no UTF-8
        return None
    return step if type(step) is int else None
