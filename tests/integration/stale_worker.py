"""A trainer whose rollout server never gets new weights, though it is told new versions: what the gate is there for."""

from __future__ import annotations

import sys

from alphamed_nemo.grpo import worker
from alphamed_nemo.rollout.refit import RefitStats, Weights, WeightTransfer

first: list = []
real_refit = WeightTransfer.refit


def refit(self: WeightTransfer, weights: Weights, version: int) -> RefitStats:
    if not first:
        first.extend((name, tensor.clone()) for name, tensor in weights)
    return real_refit(self, iter(first), version)


def main(config_path: str) -> None:
    WeightTransfer.refit = refit
    worker.main(config_path)


if __name__ == "__main__":
    main(sys.argv[1])
