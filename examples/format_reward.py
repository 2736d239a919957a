r"""A format reward: 1 for a response that reasons and then ends with one boxed answer, part by part.

    ./run train_grpo experiment=tiny reward.functions=[correct,examples/format_reward.py:format_reward] \
        reward.weights=[1.0,0.2]

The paper rewards no format; this is for those who want to see what it changes. metrics.jsonl gets `reward/correct`,
`reward/format_reward` and its parts `reward/format_reward/reasons` and `reward/format_reward/one_box`.
"""

from __future__ import annotations

import re

BOX = re.compile(r"\\boxed\{[^{}]*\}")
MIN_WORDS = 5  # before the box; fewer is an answer with its phrase, not reasoning


def format_reward(response: str) -> dict[str, float]:
    """Named parts, each 0 or 0.5: something like reasoning comes before the answer, and one box ends the response."""
    boxes = list(BOX.finditer(response))
    before = response[: boxes[0].start()] if boxes else response
    ends = len(boxes) == 1 and not response[boxes[0].end() :].strip(" .\n$")
    return {"reasons": 0.5 * (len(before.split()) >= MIN_WORDS), "one_box": 0.5 * ends}
