"""A data-parallel rank's share of a batch → packed batches → updates of the policy."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from alphamed_nemo.config import Config
from alphamed_nemo.grpo.clock import StepClock
from alphamed_nemo.grpo.kl import kl_coefficient
from alphamed_nemo.grpo.loss import GrpoLoss
from alphamed_nemo.grpo.metrics import add_sums, finish_metrics
from alphamed_nemo.grpo.share import Share
from alphamed_nemo.policy.policy import MegatronPolicy, StepStats
from alphamed_nemo.policy.reference import ReferencePolicy


class Updater:
    """Turns one rollout batch into `grpo.epochs` × `grpo.updates_per_batch` optimizer steps.

    Args:
        cfg: the run.
        policy: as loaded from the base model, which is the reference of a KL term.
    """

    def __init__(self, cfg: Config, policy: MegatronPolicy) -> None:
        self.cfg = cfg
        self.policy = policy
        self.reference = ReferencePolicy(policy) if cfg.grpo.kl_coef else None

    def update(self, share: Share, clock: StepClock, step: int) -> dict[str, float]:
        """Trains on one rollout batch.

        Args:
            share: this data-parallel rank's.
            clock: gets the phases `old_logprobs` (the reference's included) and `training`.
            step: steps done before this one.

        Returns:
            The metrics of the update, equal on all ranks. Means over tokens, across all mini-batches, are over those
            trained on (`trained_on`).

        Raises:
            NotFiniteError: the loss, a gradient or an updated weight is NaN or infinite; on every rank.
        """
        coefficient, temperature = kl_coefficient(self.cfg.grpo, step), self.cfg.rollout.temperature
        grpo = replace(self.cfg.grpo, kl_coef=coefficient)
        minibatches = [minibatch.lay_out() for minibatch in share.minibatches]
        with clock.phase("old_logprobs"):
            for batches in minibatches if grpo.needs_old_logprobs else ():
                for batch, old in zip(batches, self.policy.logprobs(batches, temperature), strict=True):
                    batch.old_logprobs = old
            if self.reference is not None:
                for batches in minibatches:
                    for batch, values in zip(batches, self.reference.logprobs(batches, temperature), strict=True):
                        batch.ref_logprobs = values

        steps: list[StepStats] = []
        with clock.phase("training"):
            for _ in range(grpo.epochs):
                for minibatch, batches in zip(share.minibatches, minibatches, strict=True):
                    steps.append(self.policy.train_step(batches, GrpoLoss(grpo, minibatch.totals), temperature))
            self.policy.check_weights()
        return {
            "loss": fmean(stats.loss for stats in steps),
            "grad_norm": fmean(stats.grad_norm for stats in steps),
            "lr": steps[-1].lr,
            **({} if self.reference is None else {"kl_coef": coefficient}),
            "processed_tokens": float(sum(minibatch.tokens for minibatch in share.minibatches)),
            "training_operations": grpo.epochs * sum(minibatch.operations for minibatch in share.minibatches),
        } | finish_metrics(add_sums(stats.metrics for stats in steps))
