"""Labelling and evaluation: the share of a stage's time in which vLLM has requests to work on."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from transformers import AutoTokenizer

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.evaluation.engine import evaluate
from alphamed_nemo.evaluation.labelling import label_questions
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import rollout_pool
from alphamed_nemo.rollout.connection import connect
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.sampling import Request, Sampling
from alphamed_nemo.rollout.types import Rollout
from benchmarks.measure import Row
from benchmarks.workload import TOKENIZER

QUESTIONS = 800


class Watched(RolloutPool):
    """Notes when requests are under way; from the thread of each."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.requests: list[tuple[float, float]] = []

    def _sample(self, request: Request, sampling: Sampling, version: int) -> list[list[Rollout]]:
        started = time.perf_counter()
        try:
            return super()._sample(request, sampling, version)
        finally:
            self.requests.append((started, time.perf_counter()))

    def seconds(self) -> float:
        """In which at least one request was under way."""
        total = until = 0.0
        for start, end in sorted(self.requests):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total


def measure_sampling(repeats: int) -> list[Row]:
    """On the tiny base model, whose answers come fastest, so that all else weighs most."""
    cfg = Config()
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    cfg.model.path, cfg.model.max_length, cfg.data.prompt = str(TOKENIZER), 192, "tiny"
    cfg.label.samples, cfg.evaluate.samples, cfg.evaluate.protocol = 5, 1, "boxed"
    cfg.label.max_new_tokens = cfg.evaluate.max_new_tokens = 48
    questions, *_ = embedded_bank(QUESTIONS, 0)
    shares: dict[str, list[float]] = {"labelling": [], "evaluation": []}
    with tempfile.TemporaryDirectory() as name, Launcher(Path(name)) as launcher:
        rollout_pool(cfg, launcher, cfg.model.path).warm_up()
        for repeat in range(repeats + 1):
            for stage, found in shares.items():
                pool = Watched(connect(cfg.rollout), cfg.rollout)
                out = Path(name) / f"{stage}-{repeat}.json"
                started = time.perf_counter()
                tokenizer = AutoTokenizer.from_pretrained(cfg.model.path)
                if stage == "labelling":
                    label_questions(questions, pool, tokenizer, cfg, out)
                else:
                    evaluate(questions, pool, tokenizer, cfg, "model", out)
                if repeat:  # the first warms up
                    found.append(100 * pool.seconds() / (time.perf_counter() - started))
    note = f"{QUESTIONS} questions to the tiny model, server already up"
    return [Row(f"{stage}: vLLM at work", "% of wall time", found, "95", note) for stage, found in shares.items()]
