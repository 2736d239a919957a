"""The figure of a benchmark: the step by phase, ours beside TRL's."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from benchmarks.measure import Row

COLOURS = {
    "generation": "#1f6f8b",
    "training": "#d97628",
    "old_logprobs": "#e3b23c",
    "refit": "#7a4fa0",
    "reward": "#4c9f70",
    "other": "#9aa0a6",
}
WHOLE = "#444c56"  # a step whose phases are not known


def draw(rows: list[Row], path: Path) -> None:
    """Bars of median seconds; nothing where no step was measured."""
    steps = [row for row in rows if row.unit == "s" and row.name.startswith(("GRPO step, ", "the same step"))]
    bars = [row for row in steps if ":" not in row.name]
    if not bars:
        return
    canvas, axes = pyplot.subplots(figsize=(8, 0.6 + 0.45 * len(bars)))
    seen = set()
    for place, bar in enumerate(reversed(bars)):
        left = 0.0
        for phase, colour in COLOURS.items():
            part = next((row.median for row in steps if row.name == f"{bar.name}: {phase}"), None)
            if part is not None:
                axes.barh(place, part, left=left, color=colour, label=None if phase in seen else phase)
                seen.add(phase)
                left += part
        if not left:
            axes.barh(place, bar.median, color=WHOLE)
    axes.set_yticks(range(len(bars)), [bar.name.removeprefix("GRPO step, ") for bar in reversed(bars)])
    axes.set_xlabel("seconds, median")
    axes.spines[["top", "right"]].set_visible(False)
    if seen:
        axes.legend(frameon=False, fontsize=8)
    canvas.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": "alphamed", "svg.fonttype": "none"}):
        canvas.savefig(path, metadata={"Date": None})
