"""What a run writes down: one JSON line of metrics a step, sample responses, and the loggers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.grpo.collect import Collected

Logger = Callable[[dict[str, float], int], None]

log = logging.getLogger(__name__)


class RunRecord:
    """Writes `metrics.jsonl` and `samples/step_<n>.jsonl` in the run folder and feeds the loggers. Rank 0 only.

    Args:
        folder: the run folder.
        decode: token ids to text, special tokens included, so that samples show each prompt as it was sent.
        samples_kept: responses per step that go into the samples file, whole groups first to last.
        devices: ranks plus rollout devices, for throughput per device.
        loggers: each gets (metrics, step).
    """

    def __init__(
        self,
        folder: RunFolder,
        decode: Callable[[list[int]], str],
        samples_kept: int,
        devices: int,
        loggers: list[Logger],
    ) -> None:
        self.path = folder.metrics
        self.samples = folder.samples
        self.samples.mkdir(parents=True, exist_ok=True)
        self.decode = decode
        self.samples_kept = samples_kept
        self.devices = devices
        self.loggers = loggers

    def write(self, step: int, metrics: dict[str, float], timing: dict[str, float], collected: Collected) -> None:
        tokens = sum(len(r.response_ids) for group in collected.groups for r in group.rollouts)
        row = {"step": step, **metrics, **{f"timing/{name}": value for name, value in timing.items()}}
        row["throughput/generated_tokens_per_s"] = tokens / max(timing["generation"], 1e-9) / self.devices
        row["throughput/trained_tokens_per_s"] = (
            metrics["processed_tokens"] / max(timing["training"], 1e-9) / self.devices
        )
        self._write_samples(step, collected)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint of this step, so that no saved step is without its row
        for logger in self.loggers:
            logger({name: value for name, value in row.items() if name != "step"}, step)

    def rewind(self, step: int) -> None:
        """Forgets what an earlier attempt wrote after `step`, so that a resumed run has no step twice.

        A row that is torn, as a full disk or a lost node leaves it, is dropped with a warning: no resume fails of it.
        """
        for path in self.samples.glob("step_*.jsonl"):
            number = path.stem.removeprefix("step_")
            if number.isdecimal() and int(number) > step:
                path.unlink()
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
        path = self.samples / f"step_{step}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[: self.samples_kept]))


def _step_of(line: bytes) -> int | None:
    """The step of a row; None where the line is no row."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):  # ValueError: also bytes that are no UTF-8
        return None
    return step if type(step) is int else None
