"""The tiny base model: a Llama of a million parameters, trained from random weights on the invented clinic's corpus.

python recipes/make_tiny_model.py run.name=base  # about six minutes on two cores → runs/base/base
python recipes/make_tiny_model.py tiny.out=alphamed_nemo/assets/tiny_base  # remakes the one that is shipped

It knows the facts and can reason in steps, but mostly answers at once: what GRPO is there to change. Training goes
through the same Megatron policy as GRPO, in one process.
"""

from __future__ import annotations

import logging

from alphamed_nemo.cli.progress import counter
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config, ParallelConfig

log = logging.getLogger(__name__)


@recipe("make_tiny_model", on_gpus=None)
def main(cfg: Config) -> None:
    from alphamed_nemo.clinic.pretrain import (
        pretrain,  # torch and Megatron, which take seconds: once the settings are right
    )

    losses: list[float] = []
    with counter("steps", 0) as progress:

        def on_step(step: int, steps: int, stats) -> None:
            losses.append(stats.loss)
            progress(step, steps)

        pretrain(cfg.tiny, cfg.tiny.out, ParallelConfig(), on_step)
    log.info("%s: %d steps, loss %.3f to %.3f", cfg.tiny.out, len(losses), losses[0], losses[-1])


if __name__ == "__main__":
    main()
