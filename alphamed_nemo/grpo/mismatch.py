"""The gates of a step: a run whose trainer and rollout engine disagree, or that has a number that is not finite, stops.

Training on log-probs that are not the sampler's drifts without any other sign, so they are compared on every step.

Two correct programs differ by rounding, and how much of that reaches the log-probs depends on the model and on what it
writes: hardly anything moves a token of which it is sure. So the limit of `logprob_difference_mean` is measured on the
policy (`policy/sensitivity.py`) and on tokens that it sampled: how far they move when every matrix changes by the
fraction that rounding amounts to in the run's dtypes. docs/rollout.md has the figures that `ROUNDING` follows from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from alphamed_nemo.config import Config, GrpoConfig
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.refit_check import coarsest
from alphamed_nemo.policy.packing import TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.sensitivity import sensitivity

# The relative change of every weight that passes for rounding. Measured as such a change (docs/rollout.md), two
# programs were at most 1.4e-6 apart in float32, 0.41% in bfloat16 and 1.1% with one in each; FP8 was not measured.
ROUNDING = {"float32": 1e-5, "bfloat16": 1e-2, "mixed": 2.5e-2, "fp8": 0.1}
EVERY = 10  # steps after which it is measured again: a policy that grows surer of its tokens moves less
# The mean over N tokens is known to about 1/√N, and more coarsely where a few tokens make up most of it.
SPREAD = 5.0
LEAST = 2e-6  # nats: log-softmax in float32 is not exacter, however sure the policy is

LIKELY_CAUSES = """Likely causes, the commonest first:
  - the engine samples with older weights than it says: see its log and the refit lines of the trainer's;
  - temperature or top-p: both sides must report log-softmax(logits / temperature), before top-p;
  - precision: model.dtype and rollout.dtype differ, or FP8 on one side only (widen the gate for FP8 alone, with
    grpo.correction=tis_token);
  - a fused kernel on one side: rope and bias-activation fusion have done this before;
  - rope scaling, tied embeddings or padded vocabulary ids that one side handles differently: the export check
    (recipes/convert_to_hf.py) compares the two on logits."""


class MismatchError(RuntimeError):
    """Trainer and rollout engine disagree on the log-probs of the sampled tokens, or a metric is not finite."""


class Gates:
    """The gates of every step. `check` is collective.

    Args:
        cfg: the run; `grpo.max_token_mult_prob_error`, where it is set, takes the place of the measured limit.
        policy, exchange: on every rank.
    """

    def __init__(self, cfg: Config, policy: MegatronPolicy, exchange: Exchange) -> None:
        self.cfg, self.policy, self.exchange = cfg, policy, exchange
        self.rounding = rounding(cfg)
        self.nats: float | None = None  # the limit for infinitely many tokens
        self.measured = 0  # the step when it was

    def check(self, metrics: Mapping[str, float], sample: Sequence[TrainSequence], step: int) -> dict[str, float]:
        """Stops the run where this step must not be built upon.

        Rollouts of older weights (`grpo.staleness`) differ from the trainer by what it has learnt since, which is no
        fault: for them only finiteness is asked. A server that serves other weights than it says is caught by the rest.

        Args:
            metrics: the step's finished metrics.
            sample: responses of the step's batch, on which the limit is measured; the same on every rank.
            step: version of the weights that this step starts from.

        Returns:
            The limit in force as a metric; nothing where none was needed.

        Raises:
            MismatchError: a value is not finite or above its limit; the message says which, by how much, and the likely
                causes.
        """
        check_finite(metrics, step)
        if metrics["weight_version"] < step:
            return {}
        check_fixed(metrics, self.cfg.grpo, step)
        if self.cfg.grpo.max_token_mult_prob_error is not None:
            return {}
        if self.nats is None or step - self.measured >= EVERY:
            self._measure(sample, step)
        if metrics["logprob_difference_mean"] > self._limit(metrics) and self.measured != step:
            self._measure(sample, step)
        limit = self._limit(metrics)
        if metrics["logprob_difference_mean"] > limit:
            explained = (
                f"the {limit:.2g} that rounding explains, as measured on this policy (grpo.max_token_mult_prob_error "
                "sets a fixed limit instead)"
            )
            raise mismatch(step, "logprob_difference_mean", metrics["logprob_difference_mean"], "nats", explained)
        return {"logprob_difference_limit": limit}

    def _limit(self, metrics: Mapping[str, float]) -> float:
        assert self.nats is not None, "measured before"
        return self.nats * (1 + SPREAD / math.sqrt(metrics["trained_tokens"]))

    def _measure(self, sample: Sequence[TrainSequence], step: int) -> None:
        (batch,) = pack(sample, self.cfg.grpo.tokens_per_microbatch)
        moves = sensitivity(self.policy, batch, self.cfg.rollout.temperature).mean().item()
        # Rank 0's measurement, so that all ranks come to one conclusion.
        change = self.exchange.from_rank0(lambda: moves)
        self.nats, self.measured = max(LEAST, self.rounding * change), step


def rounding(cfg: Config) -> float:
    """The relative change of every weight that passes for rounding in the run's types."""
    kind = coarsest(cfg)
    return ROUNDING["mixed" if kind == "bfloat16" and cfg.model.dtype != cfg.rollout.dtype else kind]


def check_finite(metrics: Mapping[str, float], step: int) -> None:
    """Raises: MismatchError: a metric is not finite."""
    broken = [f"{name} is {value}" for name, value in sorted(metrics.items()) if not math.isfinite(value)]
    if broken:
        raise MismatchError(
            f"step {step}: {', '.join(broken)}. If grad_norm alone is not finite, lower optim.lr or set "
            f"optim.clip_grad; if a log-prob metric is not, the two sides disagree.\n{LIKELY_CAUSES}"
        )


def check_fixed(metrics: Mapping[str, float], cfg: GrpoConfig, step: int) -> None:
    """The limits that the settings give.

    Raises:
        MismatchError: one is passed.
    """
    ratio, largest = metrics["token_mult_prob_error"], metrics["logprob_difference_max"]
    if cfg.max_token_mult_prob_error is not None and ratio > cfg.max_token_mult_prob_error:
        limit = f"grpo.max_token_mult_prob_error={cfg.max_token_mult_prob_error:g}"
        raise mismatch(step, "token_mult_prob_error", ratio, "1 is exact agreement", limit)
    if 0 < cfg.max_logprob_difference < largest:
        limit = f"grpo.max_logprob_difference={cfg.max_logprob_difference:g}"
        raise mismatch(step, "logprob_difference_max", largest, "nats", limit)


def mismatch(step: int, metric: str, found: float, unit: str, limit: str) -> MismatchError:
    return MismatchError(
        f"step {step}: {metric} is {found:.6g} ({unit}), above {limit}. Trainer and rollout engine disagree on the "
        f"log-probs of sampled tokens.\n{LIKELY_CAUSES}"
    )
