"""Rows of metrics that runs are compared by."""

from __future__ import annotations


def timeless(row: dict, *more: str) -> dict:
    """What a resumed run repeats: no times, no limit that each attempt measures at its first step.

    Args:
        more: beginnings of further names that are left out.
    """
    own = ("timing/", "throughput/", "logprob_difference_limit", *more)
    return {name: value for name, value in row.items() if not name.startswith(own)}
