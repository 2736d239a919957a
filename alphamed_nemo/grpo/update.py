"""Groups → packed batches → updates of the policy."""

from __future__ import annotations

from statistics import fmean

from alphamed_nemo.config import Config, GrpoConfig
from alphamed_nemo.grpo.aggregation import BatchTotals
from alphamed_nemo.grpo.clock import StepClock
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.loss import GrpoLoss
from alphamed_nemo.grpo.metrics import add_sums, finish_metrics
from alphamed_nemo.policy.packing import PackedBatch, TrainSequence, pack
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
        self.share_prompts = policy.is_local if cfg.grpo.share_prompts is None else cfg.grpo.share_prompts
        self.reference = ReferencePolicy(policy) if cfg.grpo.kl_coef else None

    def update(self, groups: list[Group], clock: StepClock) -> dict[str, float]:
        """Trains on one rollout batch.

        Args:
            groups: the batch; every rank has the same.
            clock: gets the phases `old_logprobs` (the reference's included) and `training`.

        Returns:
            The metrics of the update, equal on all ranks. Means over tokens, across all mini-batches, are over those
            trained on (`trained_on`).

        Raises:
            NotFiniteError: the loss, a gradient or an updated weight is NaN or infinite; on every rank.
        """
        grpo, temperature = self.cfg.grpo, self.cfg.rollout.temperature
        parts = split(groups, grpo.updates_per_batch)
        trained = [trained_on(part, grpo) for part in parts]
        minibatches = [self._pack(sequences) for sequences in trained]
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
                for part, sequences, batches in zip(parts, trained, minibatches, strict=True):
                    totals = BatchTotals.of(sequences_of(part) or sequences)
                    steps.append(self.policy.train_step(batches, GrpoLoss(grpo, totals), temperature))
            self.policy.check_weights()
        return {
            "loss": fmean(stats.loss for stats in steps),
            "grad_norm": fmean(stats.grad_norm for stats in steps),
            "lr": steps[-1].lr,
            "processed_tokens": float(sum(len(sequence) for sequences in trained for sequence in sequences)),
        } | finish_metrics(add_sums(stats.metrics for stats in steps))

    def _pack(self, sequences: list[TrainSequence]) -> list[PackedBatch]:
        """This data-parallel rank's micro-batches; each rank has equally many."""
        return pack(
            sequences,
            self.cfg.grpo.tokens_per_microbatch,
            data_rank=self.policy.data_rank,
            data_size=self.cfg.parallel.data,
            share_prompts=self.share_prompts,
        )


def sequences_of(groups: list[Group]) -> list[TrainSequence]:
    """Every response that counts in the loss."""
    return [sequence for group in groups for sequence in group.sequences()]


def trained_on(groups: list[Group], cfg: GrpoConfig) -> list[TrainSequence]:
    """The responses that a forward and a backward pass are spent on, in order.

    A response with advantage 0 (all of its group are right, or all wrong) has no gradient, so it is left out unless a
    KL or an entropy term, or a loss of the user's own, may give it one; the loss is still divided by the counts of the
    whole mini-batch. Where nothing is left, the shortest response goes with advantage 0: the optimizer's momentum and
    schedule move on as they would.
    """
    if cfg.kl_coef or cfg.entropy_coef or cfg.has_own_loss:
        kept = sequences_of(groups)
    else:
        kept = [sequence for sequence in sequences_of(groups) if sequence.advantage]
    if kept:
        return kept
    every = [TrainSequence(r.prompt_ids, r.response_ids, 0.0, r.logprobs) for group in groups for r in group.rollouts]
    return [min(every, key=len)]


def split(groups: list[Group], parts: int) -> list[list[Group]]:
    """Consecutive mini-batches of whole groups, sizes differing by at most one."""
    bounds = [round(i * len(groups) / parts) for i in range(parts + 1)]
    return [groups[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
