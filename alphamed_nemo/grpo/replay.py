"""An earlier run's rollouts in the place of servers: the same batches, trained on again.

With the same settings the weights come out as the run's, bit for bit on CPU; with another loss or advantage they show
what that makes of the same responses, off-policy from the second step on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.grpo.collect import Collected
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.kept_rollouts import read_rollouts


class Replay:
    """Batches from `grpo.replay`; there is nobody to give weights to. See `RolloutPlane` for its methods."""

    def __init__(self, cfg: Config, exchange: Exchange) -> None:
        self.cfg, self.exchange = cfg, exchange
        self.folder = RunFolder(Path(cfg.grpo.replay))
        self.questions = {question.id: question for question in read_questions(cfg.grpo.questions)}
        self.current: Collected | None = None

    def batch(self, step: int) -> Collected | None:
        """Raises: ValueError: the file of the step cannot be read; names it."""
        self.exchange.from_rank0(lambda: self._read(step))
        return self.current

    def refit(self, version: int) -> None:
        """Nothing is served."""

    def make_room(self) -> None:
        """Nothing shares the trainer's memory."""

    def restore(self, stream: dict[str, Any]) -> None:
        """The order of the questions is that of the files."""

    def _read(self, step: int) -> None:
        cfg = self.cfg
        path = self.folder.rollouts_of(step + 1)
        self.current = read_rollouts(path, self.questions, cfg.grpo, cfg.rollout.max_new_tokens)
