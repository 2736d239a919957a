r"""A format gate: a right answer counts only in the right form, one box at the end after something like reasoning.

    ./run train_grpo experiment=tiny reward.functions=[correct,examples/format_gate.py:format_gate] \
        reward.weights=[0.0,1.0]

`correct` has no weight and is there to be watched: metrics.jsonl has `reward/correct`, what is right, beside
`reward/format_gate`, what is right and well-formed.
"""

from __future__ import annotations

import re

from alphamed_nemo.answers.options import choices_of
from alphamed_nemo.answers.protocols import extractor
from alphamed_nemo.data.question import Question

FORM = re.compile(r"(?:\S+\s+){5}.*\\boxed\{[^{}]*\}[\s.$]*", re.DOTALL)  # five words or more before the box


def format_gate(response: str, question: Question) -> float:
    """1 where the answer is right and the response is well-formed, else 0."""
    formed = response.count(r"\boxed{") == 1 and FORM.fullmatch(response.strip())
    return float(bool(formed) and extractor("boxed")(response, choices_of(question.options)) == question.answer)
