"""What a model card says of answers in free text: their score, or that nobody has judged them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphamed_nemo.evaluation.table_text import with_interval

NOT_DONE = "Answers in free text (HealthBench and the like) have not been judged."


def free_text(evaluations: Path, origin: Mapping[str, Any]) -> list[str]:
    """The card's lines on answers in free text, of exactly the weights of a release; NOT_DONE where there are none."""
    lines = []
    for path in sorted(evaluations.glob("judged/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        asked = result["settings"]
        if asked["release"] == origin["model_sha256"] and asked["weights"] == origin["weights"]:
            low, high = result["interval"]
            lines.append(
                f"Answers in free text: {with_interval(result['score'], (low, high))} % of the points of the rubrics "
                f"of `{result['set']}` (n = {result['n']}, mean over questions with its 95% interval), as judged by "
                f"`{asked['judge']}` with this project's own instruction on {result['date']}. Not comparable with "
                "published scores, whose judge and instruction are others."
            )
    return lines or [NOT_DONE]
