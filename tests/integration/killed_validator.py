"""A trainer whose rank 0 is killed in the validation after step 2, once its answers are there."""

from __future__ import annotations

import os
import signal
import sys

from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.grpo import validation, worker

real_ask = validation.Validator._ask


def ask(self: validation.Validator, step: int, samples: int, temperature: float, top_p: float) -> EvaluationResult:
    result = real_ask(self, step, samples, temperature, top_p)
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def main(config_path: str) -> None:
    validation.Validator._ask = ask
    worker.main(config_path)


if __name__ == "__main__":
    main(sys.argv[1])
