"""What a person should hear of while a run trains: steps that cost their time and teach nothing, with likely causes.

Each advisory is told once, when it has held for `STEPS` steps in a row, and again only after it has ceased. A step
whose responses were all cut off is told of at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from statistics import fmean

VALIDATIONS = 3  # of which the last is compared with the first: chance alone seldom moves three the same way
HIGHER = 0.1  # of the mean reward: beyond what batches of 256 × 8 vary by
STEPS = 3  # one unlucky batch is no news; three in a row are hardly chance, and still early
MOSTLY = 0.5  # share of responses: where more than half are cut off, most of the batch cannot be right

# What the advisories read; a row without one of them (an older run's) is passed over.
KEYS = ("reward/mean", "effective_query_ratio", "response_length/clip_ratio", "unparsable_ratio")


class Watch:
    """Sees the rows of metrics.jsonl in order and says what is new."""

    def __init__(self) -> None:
        self.rows: deque[Mapping[str, float]] = deque(maxlen=STEPS)
        self.told: set[str] = set()
        self.rewards: list[float] = []  # since the last validation
        self.validated: deque[tuple[float, float]] = deque(maxlen=VALIDATIONS)  # mean reward before, and accuracy

    def see(self, row: Mapping[str, float]) -> list[str]:
        """The advisories that hold since this step, or since this validation."""
        if row.get("validation/accuracy") is not None:
            return self._see_validation(row["validation/accuracy"])
        if any(row.get(key) is None for key in KEYS):
            return []
        self.rows.append(row)
        self.rewards.append(row["reward/mean"])
        now = dict(advisories(list(self.rows))) if len(self.rows) == STEPS else {}
        if row["response_length/clip_ratio"] == 1:
            now["all truncated"] = (
                "every response was cut off (with grpo.mask_truncated nothing was trained on): raise "
                "rollout.max_new_tokens, or take a prompt whose answers are shorter (data.prompt)"
            )
        new = [text for name, text in now.items() if name not in self.told]
        self.told = set(now)
        return new

    def _see_validation(self, accuracy: float) -> list[str]:
        """Once the reward rises and what was not trained on gains nothing by it."""
        if not self.rewards:
            return []
        self.validated.append((fmean(self.rewards), accuracy))
        self.rewards.clear()
        (reward, first), (now, last) = self.validated[0], self.validated[-1]
        if len(self.validated) < VALIDATIONS or now - reward < HIGHER or last > first:
            return []
        self.validated.clear()  # to be told again, it has to go on as long once more
        return [
            f"the mean reward rose from {reward:.2f} to {now:.2f} over {VALIDATIONS} validations, whose accuracy went "
            f"from {first:.1%} to {last:.1%}: read samples/ for answers that please the reward and are not right "
            "(reward.functions), or that are known by heart (grpo.steps × grpo.questions_per_step passes over the "
            "questions), and take an earlier checkpoint (export.checkpoint=best)"
        ]


def advisories(rows: list[Mapping[str, float]]) -> Iterator[tuple[str, str]]:
    """(name, text) of what holds in each of the rows."""
    truncated = fmean(row["response_length/clip_ratio"] for row in rows)
    unread = fmean(row["unparsable_ratio"] for row in rows)
    span = f"for {len(rows)} steps"
    # With reward.functions the mean is a weighted sum, and a row says apart how many answers were right.
    right = [row.get("reward/correct", row["reward/mean"]) for row in rows]
    weighted = any("reward/correct" in row for row in rows)
    flat = all(row["effective_query_ratio"] == 0 for row in rows)
    if not any(right):
        teaches = "there is no gradient" if flat or not weighted else "other reward functions alone give a gradient"
        yield (
            "no reward",
            f"no response was right {span}, so {teaches}: {unread:.0%} had no answer that can be read "
            f"(data.prompt, data.chat_template, reward.protocol) and {truncated:.0%} were cut off "
            "(rollout.max_new_tokens); else the questions are too hard (label_difficulty, label.up_to)",
        )
    elif flat:
        alike = "had equal rewards" if weighted else "were all right or all wrong"
        yield (
            "no gradient",
            f"the responses to each question {alike} {span} ({fmean(right):.0%} right), so there is no "
            "gradient: draw questions of other levels (label.up_to, grpo.questions), raise rollout.temperature or "
            "grpo.samples_per_question",
        )
    if all(row["response_length/clip_ratio"] > MOSTLY for row in rows):
        yield (
            "truncated",
            f"{truncated:.0%} of the responses were cut off {span}: raise rollout.max_new_tokens, or take a prompt "
            "whose answers are shorter (data.prompt)",
        )
