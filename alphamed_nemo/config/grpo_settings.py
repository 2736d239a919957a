"""The method's settings: how questions become groups, advantages and updates (docs/method.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

from alphamed_nemo.config.choices import (
    Advantage,
    Aggregation,
    Correction,
    Curriculum,
    KlEstimator,
    KlSchedule,
    Loss,
)
from alphamed_nemo.config.ranges import ranged


@dataclass
class GrpoConfig:
    """The method. Formulas are in grpo/advantages.py and grpo/loss.py."""

    steps: int = ranged(75, low=1)  # at 256 questions per step one pass over AlphaMed19K
    questions_per_step: int = ranged(256, low=1)
    samples_per_question: int = ranged(8, low=2)  # group size
    advantage: Advantage = "group_std"
    advantage_eps: float = ranged(1e-6, low=0)
    loss: Loss = field(default="clip", metadata={"own": "file.py:function"})  # one of your own: docs/extending.md
    aggregation: Aggregation = "token_mean"
    constant_length: int = ranged(0, low=0)  # tokens, for aggregation=constant_length
    clip_low: float = ranged(0.2, low=0, high=1)
    clip_high: float = ranged(0.2, low=0)
    dual_clip: float = ranged(0.0, low=0)  # 0: off; DAPO and others use 3
    kl_coef: float = ranged(0.0, low=0)
    kl_estimator: KlEstimator = "k3"
    kl_schedule: KlSchedule = "constant"  # linear: from kl_coef at the first step towards 0 after the last
    entropy_coef: float = ranged(0.0, low=0)
    updates_per_batch: int = ranged(1, low=1)  # mini-batches per rollout batch
    epochs: int = ranged(1, low=1)  # passes over each rollout batch
    tokens_per_microbatch: int = ranged(4096, low=1)  # packed tokens; every micro-batch is padded to this
    share_prompts: bool | None = (
        None  # compute a prompt once for all its samples; null: if the layers support it (the local ones do)
    )
    questions: str = ""  # training file; empty: <run>/data/subset.jsonl
    max_token_mult_prob_error: float | None = ranged(
        None, low=1
    )  # mean exp|rollout − trainer| at which the run stops; null: where rounding does not explain the difference
    max_logprob_difference: float = ranged(0.0, low=0)  # largest |rollout − trainer| allowed; 0: not gated
    correction: Correction = "none"
    correction_cap: float = ranged(2.0, low=1)
    correction_low: float = ranged(0.5, low=0, high=1, below=True)
    correction_high: float = ranged(5.0, low=1, above=True)
    dynamic_sampling: bool = False
    max_sampling_rounds: int = ranged(10, low=1)
    overlong_penalty_tokens: int = ranged(0, low=0)  # soft-penalty zone before max_new_tokens (DAPO); 0: off
    mask_truncated: bool = False
    curriculum: Curriculum = "none"  # pools: by how each question was last answered (docs/method.md)
    pool_easy: float = ranged(0.1, low=0, high=1)  # share of a batch from questions with right answers alone, for pools
    pool_hard: float = ranged(0.2, low=0, high=1)  # share of a batch from questions without a right answer, for pools
    staleness: int = ranged(0, low=0, high=1)  # steps by which a rollout may be older than the weights it trains
    save_every: int = ranged(10, low=1)
    keep_checkpoints: int = ranged(3, low=1)  # number of newest whole ones kept, besides the best (docs/release.md)
    keep_rollouts: bool = True  # every response of every step, in rollouts/step_<n>.parquet
    replay: str = ""  # a run's folder, whose kept rollouts are trained on again without servers (docs/kept_rollouts.md)
    samples_kept: int = ranged(64, low=0)  # responses written to samples/step_<n>.jsonl

    @property
    def has_own_loss(self) -> bool:
        """Whether `loss` names a function of the user's own."""
        return ":" in self.loss

    @property
    def has_comparable_rewards(self) -> bool:
        """Whether the mean reward of one step can be compared with another's, as the best checkpoint asks.

        Dynamic sampling replaces groups until each of them has right and wrong answers, and a curriculum asks harder
        questions as training goes on: either decides the mean by itself.
        """
        return not self.dynamic_sampling and self.curriculum == "none"

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether the trainer must compute old log-probs beforehand.

        With one update on each rollout batch the current log-probs, detached, are the old ones, to the last bit and
        without a second forward pass.
        """
        return self.updates_per_batch * self.epochs > 1
