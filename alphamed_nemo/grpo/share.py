"""What each data-parallel rank gets of a step's batch: the sequences that it trains on, and what all ranks know of it.

Rank 0 holds the batch as it came from the servers. Texts, scores and the other ranks' tokens stay there.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from alphamed_nemo.config import Config, GrpoConfig
from alphamed_nemo.families import Dimensions
from alphamed_nemo.grpo.aggregation import BatchTotals
from alphamed_nemo.grpo.collect import Collected
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.rollout_metrics import rollout_metrics
from alphamed_nemo.grpo.throughput import training_operations
from alphamed_nemo.policy.packing import Family, PackedBatch, TrainSequence, lay_out, share_out

SAMPLE = 2048  # tokens, at most, on which the limit of the mismatch is measured: four forward passes of them


@dataclass
class MiniBatch:
    """One data-parallel rank's part of a mini-batch.

    Attributes:
        packs: the families in each of its micro-batches.
        length: tokens in the row of each micro-batch, equal on all ranks.
        totals: counts over the whole mini-batch, those sequences included that no pass is spent on.
        tokens, operations: of the sequences that passes are spent on, on all ranks; see `training_operations`.
    """

    packs: list[list[Family]]
    length: int
    totals: BatchTotals
    tokens: int
    operations: float

    def lay_out(self) -> list[PackedBatch]:
        """Its micro-batches; each rank has equally many."""
        return [lay_out(families, self.length) for families in self.packs]


@dataclass
class Share:
    """What one data-parallel rank gets.

    Attributes:
        minibatches: `grpo.updates_per_batch` of them.
        sample: responses on which the trainer's rounding is measured (grpo/mismatch.py), the same on every rank.
        metrics: of the rollouts, the same on every rank.
    """

    minibatches: list[MiniBatch]
    sample: list[TrainSequence]
    metrics: dict[str, float]


def shares(batch: Collected, cfg: Config, model: Dimensions, share_prompts: bool) -> list[Share]:
    """The share of each data-parallel rank.

    Args:
        batch: the step's.
        cfg: the run.
        model: its dimensions.
        share_prompts: see `pack`.

    Raises:
        ValueError: a sequence does not fit into a micro-batch.
    """
    grpo, size = cfg.grpo, cfg.parallel.data
    minibatches: list[list[MiniBatch]] = [[] for _ in range(size)]
    for part in split(batch.groups, grpo.updates_per_batch):
        trained = trained_on(part, grpo)
        totals = BatchTotals.of(sequences_of(part) or trained)
        tokens, operations = sum(map(len, trained)), training_operations(model, trained, cfg.lora.rank > 0)
        division = share_out([*map(compact, trained)], grpo.tokens_per_microbatch, size, share_prompts)
        for own, packs in zip(minibatches, division.packs, strict=True):
            own.append(MiniBatch(packs, division.length, totals, tokens, operations))
    measured = sample(batch.groups, min(SAMPLE, grpo.tokens_per_microbatch))
    metrics = rollout_metrics(batch, cfg)
    return [Share(own, measured, metrics) for own in minibatches]


def compact(sequence: TrainSequence) -> TrainSequence:
    """The same sequence as arrays: 8 bytes a response token, and the float32 that it is laid out in."""
    return TrainSequence(
        array("i", sequence.prompt_ids),
        array("i", sequence.response_ids),
        sequence.advantage,
        array("f", sequence.rollout_logprobs),
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


def sample(groups: list[Group], tokens: int) -> list[TrainSequence]:
    """Responses of as many questions as fit into so many tokens; one at least."""
    chosen: list[TrainSequence] = []
    for responses in zip(*(group.rollouts for group in groups), strict=True):
        for each in responses:
            sequence = TrainSequence(each.prompt_ids, each.response_ids)
            if not chosen or len(sequence) <= tokens:
                chosen.append(sequence)
                tokens -= len(sequence)
    return chosen
