"""What a person should hear of while a run trains: steps that cost their time and teach little, with likely causes.

One table. Each advisory reads rows of metrics.jsonl and nothing else, so that progress and report say the same
(`report/watch.py`). Every threshold is a constant with its reason; docs/advisories.md shows the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

STEPS = 3  # one unlucky batch is no news; three in a row are hardly chance, and still early
MANY_STEPS = 10  # for what small batches do by chance, or what the first steps are known to leave behind
VALIDATIONS = 3  # of which the last is compared with the first: chance alone seldom moves three the same way

Row = Mapping[str, float]


@dataclass
class History:
    """What an advisory may look at.

    Attributes:
        first: the first STEPS rows of the run, fewer before there are so many.
        rows: the newest rows, up to MANY_STEPS.
        seen: how many there were in all.
        validated: mean reward since the validation before, and accuracy, of the newest VALIDATIONS validations.
    """

    first: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    validated: list[tuple[float, float]] = field(default_factory=list)
    seen: int = 0

    def last(self, count: int = STEPS) -> Sequence[Row]:
        """The newest `count` rows; none where there are fewer."""
        return self.rows[-count:] if len(self.rows) >= count else ()

    def began(self, key: str) -> float | None:
        """The mean of a metric over the first rows, once none of them is among the last STEPS."""
        found = values(self.first, key)
        return fmean(found) if found and self.seen >= 2 * STEPS else None


@dataclass(frozen=True)
class Advisory:
    """Something that a run is warned of.

    Attributes:
        name: as in the table and in the report.
        threshold: when, in words.
        reason: why this much.
        remedy: what to try.
        finds: what was found, in words with its numbers; "" where there is nothing.
        about: what of the run it was found in; a warning that holds is told again once there is more of it.
    """

    name: str
    threshold: str
    reason: str
    remedy: str
    finds: Callable[[History], str]
    about: Callable[[History], Collection[str]] = lambda _: ()


def right(row: Row) -> float:
    """Share of right answers: with reward.functions the mean reward is a weighted sum, and a row has both."""
    return row.get("reward/correct", row["reward/mean"])


def values(rows: Sequence[Row], key: str) -> list[float]:
    """Of a metric that every row has; [] where one lacks it, or there is no row."""
    found = [row.get(key) for row in rows]
    return [] if any(value is None for value in found) else [float(value) for value in found if value is not None]


def _flat(rows: Sequence[Row]) -> bool:
    return bool(rows) and all(row["effective_query_ratio"] == 0 for row in rows)


def _no_reward(history: History) -> str:
    rows = history.last()
    if not rows or any(right(row) for row in rows):
        return ""
    weighted = any("reward/correct" in row for row in rows)
    teaches = "there is no gradient"
    if weighted and not _flat(rows):
        teaches = "other reward functions alone give a gradient"
    unread, cut = (fmean(values(rows, key)) for key in ("unparsable_ratio", "response_length/clip_ratio"))
    return (
        f"no response was right for {STEPS} steps, so {teaches}; {unread:.0%} had no answer that can be read and "
        f"{cut:.0%} were cut off"
    )


def _no_gradient(history: History) -> str:
    rows = history.last()
    if not _flat(rows) or not any(right(row) for row in rows):
        return ""
    weighted = any("reward/correct" in row for row in rows)
    alike = "had equal rewards" if weighted else "were all right or all wrong"
    share = fmean(right(row) for row in rows)
    return f"the responses to each question {alike} for {STEPS} steps ({share:.0%} right), so there is no gradient"


LEVEL = "effective_query_ratio/L"


def _flat_levels(history: History) -> list[str]:
    """Levels without a gradient, as L1; [] where none has one, of which "no gradient" tells."""
    rows = history.last(MANY_STEPS)
    names = [name for name in (rows[-1] if rows else ()) if name.startswith(LEVEL)]
    flat = [name for name in names if values(rows, name) and not any(values(rows, name))]
    return [f"L{name.removeprefix(LEVEL)}" for name in flat] if len(flat) < len(names) else []


def _level_without_gradient(history: History) -> str:
    levels = ", ".join(_flat_levels(history))
    return f"questions of {levels} gave no gradient for {MANY_STEPS} steps" if levels else ""


def _all_truncated(history: History) -> str:
    if not history.rows or history.rows[-1]["response_length/clip_ratio"] < 1:
        return ""
    return "every response was cut off (with grpo.mask_truncated nothing was trained on)"


MOSTLY = 0.5


def _truncated(history: History) -> str:
    cut = values(history.last(), "response_length/clip_ratio")
    return f"{fmean(cut):.0%} of the responses were cut off for {STEPS} steps" if cut and min(cut) > MOSTLY else ""


LONGER = 2.0
HIGHER = 0.1


def _longer(history: History) -> str:
    now, then = values(history.last(), "response_length/mean"), history.began("response_length/mean")
    if not now or then is None or min(now) < LONGER * then:
        return ""
    gain = fmean(map(right, history.last())) - fmean(map(right, history.first))
    if gain >= HIGHER:
        return ""
    return (
        f"responses went from {then:.0f} tokens in the first steps to {fmean(now):.0f}, and right answers by "
        f"{100 * gain:+.0f} points"
    )


ENTROPY_LEFT = 0.1
SOLVED = 0.9


def _entropy(history: History) -> str:
    now, then = values(history.last(), "entropy"), history.began("entropy")
    if not now or not then or max(now) > ENTROPY_LEFT * then or fmean(map(right, history.last())) > SOLVED:
        return ""
    return f"entropy fell from {then:.2g} nats per token in the first steps to {fmean(now):.2g}"


GROWN = 2.0
NEAR = 0.5


def _mismatch(history: History) -> str:
    rows = history.last()
    now, limits = (values(rows, f"logprob_difference_{name}") for name in ("mean", "limit"))
    then = history.began("logprob_difference_mean")
    if not now or not limits or then is None or min(now) < GROWN * then:
        return ""
    if any(found < NEAR * limit for found, limit in zip(now, limits, strict=True)):
        return ""
    return (
        f"trainer and rollout engine differ by {fmean(now):.1e} nats per token, from {then:.1e} in the first steps; "
        f"the run stops at {limits[-1]:.1e}"
    )


UNREAD = 0.3


def _unparsable(history: History) -> str:
    rows = history.last(MANY_STEPS)
    unread = values(rows, "unparsable_ratio")
    if not unread or min(unread) < UNREAD or not any(map(right, rows)):
        return ""
    return f"{fmean(unread):.0%} of the responses had no answer that can be read for {MANY_STEPS} steps"


LOW_MFU = 0.15


def _mfu(history: History) -> str:
    mfu = values(history.last(), "throughput/mfu")
    return (
        f"training used {fmean(mfu):.0%} of the GPUs' BF16 peak for {STEPS} steps" if mfu and max(mfu) < LOW_MFU else ""
    )


IDLE = 0.5


def _idle(history: History) -> str:
    rows = history.last()
    version, step = values(rows, "weight_version"), values(rows, "step")
    if not version or any(used >= trained - 1 for used, trained in zip(version, step, strict=True)):
        return ""  # trainer and servers take turns, and each waits for the other
    sampling, whole = values(rows, "timing/generation"), values(rows, "timing/step")
    busy = [part / all_of_it for part, all_of_it in zip(sampling, whole, strict=True)]
    if not busy or max(busy) >= IDLE:
        return ""
    return f"rollout servers sampled {fmean(busy):.0%} of the time for {STEPS} steps, else they waited for the trainer"


PASSES = 10.0


def _often(history: History) -> str:
    passes = history.rows[-1].get("question_passes") if history.rows else None
    return f"every question has been asked {passes:.0f} times" if passes is not None and passes >= PASSES else ""


def _hacking(history: History) -> str:
    if len(history.validated) < VALIDATIONS:
        return ""
    (reward, first), (now, last) = history.validated[0], history.validated[-1]
    if now - reward < HIGHER or last > first:
        return ""
    return (
        f"the mean reward rose from {reward:.2f} to {now:.2f} over {VALIDATIONS} validations, whose accuracy went from "
        f"{first:.1%} to {last:.1%}"
    )


TABLE = (
    Advisory(
        "no reward",
        f"no response is right for {STEPS} steps",
        "a group whose rewards are all 0 has no gradient",
        "let prompt and rule fit what the model writes (data.prompt, data.chat_template, reward.protocol), raise "
        "rollout.max_new_tokens, or ask easier questions (label_difficulty, label.up_to)",
        _no_reward,
    ),
    Advisory(
        "no gradient",
        f"all groups have equal rewards for {STEPS} steps",
        "advantages of equal rewards are 0: the step costs its time and trains nothing",
        "draw questions of other levels (label.up_to, grpo.questions), raise rollout.temperature or "
        "grpo.samples_per_question",
        _no_gradient,
    ),
    Advisory(
        "level without a gradient",
        f"all groups of a level have equal rewards for {MANY_STEPS} steps, and those of another have not",
        f"a level has few questions in a batch, so it takes {MANY_STEPS} of them to tell",
        "leave the level out (label.first, label.up_to, grpo.questions), or have such groups replaced "
        "(grpo.dynamic_sampling)",
        _level_without_gradient,
        _flat_levels,
    ),
    Advisory(
        "all truncated",
        "every response of one step is cut off",
        "no answer can be right, and with grpo.mask_truncated there is nothing to train on",
        "raise rollout.max_new_tokens, or take a prompt whose answers are shorter (data.prompt)",
        _all_truncated,
    ),
    Advisory(
        "truncated",
        f"more than {MOSTLY:.0%} of the responses are cut off for {STEPS} steps",
        "an answer that is cut off counts as wrong, so most of the batch cannot be right",
        "raise rollout.max_new_tokens, or take a prompt whose answers are shorter (data.prompt)",
        _truncated,
    ),
    Advisory(
        "length running away",
        f"responses are {LONGER:g} times as long as in the first {STEPS} steps for {STEPS} steps, and right answers "
        f"have gained less than {100 * HIGHER:.0f} points",
        "longer reasoning that gets more right is what is wanted; without that it costs time and is cut off in the end",
        "penalise length (grpo.overlong_penalty_tokens, or a reward function), take grpo.aggregation=constant_length",
        _longer,
    ),
    Advisory(
        "entropy collapse",
        f"entropy is below {ENTROPY_LEFT:.0%} of that of the first {STEPS} steps for {STEPS} steps, with at most "
        f"{SOLVED:.0%} right",
        "a policy that writes the same to each sample has groups of equal rewards; one that gets nearly all right may",
        "raise grpo.clip_high (0.28), grpo.entropy_coef or rollout.temperature, lower optim.lr",
        _entropy,
    ),
    Advisory(
        "mismatch growing",
        f"the mean difference of log-probs is {GROWN:g} times that of the first {STEPS} steps and over {NEAR:.0%} of "
        f"its limit for {STEPS} steps",
        "at the limit the run stops; a difference that grows is not rounding alone",
        "set model.head_dtype=float32, rollout.dtype as model.dtype, or grpo.correction=tis_token",
        _mismatch,
    ),
    Advisory(
        "unparsable",
        f"{UNREAD:.0%} of the responses or more have no answer that can be read for {MANY_STEPS} steps",
        "they count as wrong whatever the model knows; in the first steps training itself brings the share down",
        "let prompt and rule fit what the model writes (data.prompt, data.chat_template, reward.protocol)",
        _unparsable,
    ),
    Advisory(
        "low MFU",
        f"MFU of the training is below {LOW_MFU:.0%} for {STEPS} steps, where the card is known",
        "less than half of what published steps reach (plan.compute_efficiency)",
        "lower parallel.tensor or parallel.pipeline, raise grpo.tokens_per_microbatch (docs/plan.md)",
        _mfu,
    ),
    Advisory(
        "servers idle",
        f"with grpo.staleness the servers sample for less than {IDLE:.0%} of {STEPS} steps",
        "GPUs of their own that wait half of the time would train more of the batch",
        "give the trainer more of the nodes (rollout.servers, parallel.data), or set rollout.placement=colocated",
        _idle,
    ),
    Advisory(
        "same questions too often",
        f"{PASSES:g} passes over the questions",
        "the paper's sets of 1,200 are passed over 8.5 times, and at the end 2 to 22% of their groups have a gradient",
        "take more questions, fewer steps (grpo.steps), or an earlier checkpoint (export.checkpoint=best)",
        _often,
    ),
    Advisory(
        "reward up, validation not",
        f"over {VALIDATIONS} validations the mean reward rises by {HIGHER:g} and the accuracy does not",
        "what the policy learns then pleases the reward, or is known by heart",
        "read samples/ for answers that please the reward and are not right (reward.functions) or are known by heart "
        "(passes over the questions), and take an earlier checkpoint (export.checkpoint=best)",
        _hacking,
    ),
)
