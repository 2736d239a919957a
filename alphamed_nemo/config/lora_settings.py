"""Low-rank adapters: what is trained in the place of the model's weights (policy/lora.py, docs/lora.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from alphamed_nemo.config.choices import LoraTarget
from alphamed_nemo.config.ranges import positive, ranged


@dataclass
class LoraConfig:
    """Low-rank adapters, trained while the model's own weights stay as they are: docs/lora.md."""

    rank: int = ranged(0, low=0)  # of every adapter; 0: off, all weights are trained
    alpha: float = positive(32.0)  # an adapter's output is multiplied by alpha / rank
    targets: list[LoraTarget] = field(default_factory=lambda: [*get_args(LoraTarget)])  # the layers that have one

    @property
    def scale(self) -> float:
        return self.alpha / self.rank
