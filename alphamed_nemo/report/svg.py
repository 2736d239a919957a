"""Small charts as inline SVG. Colours and fonts are CSS classes of the page, so they follow light and dark.

Every chart is a string that starts with `<svg`; hovering shows values through `<title>`, with no script.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from alphamed_nemo.report.scale import Axis, decade, nice_ticks, number, padded_range, percent, smooth

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 34
SMOOTH_FROM = 24  # points from which a line is drawn smoothed over its faint raw values


@dataclass(frozen=True)
class Series:
    """One line or one layer: values over steps, drawn in the page's colour `s<colour>` (1 to 8)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 1


def line_chart(
    series: Sequence[Series],
    label: str,
    y_range: tuple[float, float] | None = None,
    show=number,
    log: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    x_label: str = "step",
    points: bool = False,
    bounds: Sequence[tuple[float, float]] = (),
    names: Mapping[float, str] | None = None,
) -> str:
    """Lines over steps, long ones smoothed.

    `marks` are horizontal dashed lines with a text; `label` is read to those who cannot see the chart. With `points`
    each value is a dot, and a faint line between two says that nothing was measured there; `bounds` are the lower and
    upper ends of whiskers through the dots of the first series, which lies above the others. `names` are shown below
    the axis in place of round numbers.
    """
    series = [line for line in series if line.x]
    values = [value for line in series for value in line.y] + [value for value, _ in marks]
    low, high = y_range or padded_range(values, log)
    x, y = _axes([step for line in series for step in line.x], low, high, log)
    parts = [*_grid(x, y, show, x_label, names=names)]
    for value, text in marks:
        parts.append(_line("mark", LEFT, y(value), WIDTH - RIGHT, y(value)))
        parts.append(_text("mark-text", WIDTH - RIGHT - 2, y(value) - 4, text, "end"))
    if bounds:
        for step, (bottom, top) in zip(series[0].x, bounds, strict=True):
            parts.append(_line("whisker", x(step), y(bottom), x(step), y(top)))
            parts += [_line("whisker", x(step) - 4, y(end), x(step) + 4, y(end)) for end in (bottom, top)]
    for line in reversed(series):
        smoothed = len(line.x) >= SMOOTH_FROM and not log and not points
        if smoothed or points:
            parts.append(_path(line.x, line.y, x, y, f"line raw s{line.colour}"))
        if not points:
            shown = smooth(line.y, max(3, len(line.y) // 12)) if smoothed else line.y
            parts.append(_path(line.x, shown, x, y, f"line s{line.colour}"))
        if points or len(line.x) == 1:
            parts += [_dot(line.colour, x(step), y(value)) for step, value in zip(line.x, line.y, strict=True)]
    parts += _hover(series, x, show, x_label, names or {})
    return _svg(parts, label)


def stacked_bars(layers: Sequence[Series], label: str, show=number) -> str:
    """Layers of the same steps stacked into one bar per step, or per run of steps where there are more than 60."""
    steps = list(layers[0].x)
    group = max(1, math.ceil(len(steps) / 60))
    starts = range(0, len(steps), group)
    columns = [[fmean(layer.y[i : i + group]) for layer in layers] for i in starts]
    x, y = _axes(steps, 0.0, 1.05 * max([sum(column) for column in columns] + [1e-9]), False)
    spacing = (x.end - x.start) / max(1, len(columns))
    parts = [*_grid(x, y, show, "step", ticks_x=False)]
    for i, (start, column) in enumerate(zip(starts, columns, strict=True)):
        left, base = x.start + i * spacing, 0.0
        for layer, value in zip(layers, column, strict=True):
            parts.append(_rect(layer.colour, left + 0.12 * spacing, y(base + value), 0.76 * spacing, y(base)))
            base += value
        last = steps[min(start + group, len(steps)) - 1]
        title = f"step {steps[start]:.0f}" + (f" to {last:.0f}" if group > 1 else "")
        values = [f"{layer.name} {show(value)}" for layer, value in zip(layers, column, strict=True)]
        parts.append(_hint(left, spacing, " · ".join([title, show(base), *values])))
        if i % max(1, math.ceil(len(columns) / 8)) == 0:
            parts.append(_text("tick", left + spacing / 2, HEIGHT - BOTTOM + 15, f"{steps[start]:.0f}"))
    return _svg(parts, label)


def histogram(series: Sequence[Series], width: float, label: str, x_label: str) -> str:
    """Shares of values in bins as one outline per series.

    Args:
        series: x holds the lower edges of its bins, equally spaced and ascending; y each bin's share, 0..1.
        width: of a bin, in the unit of x.
        label: read to those who cannot see the chart.
        x_label: the unit of x.
    """
    edges = sorted({edge for line in series for edge in line.x})
    x = Axis(edges[0], edges[-1] + width, LEFT, WIDTH - RIGHT)
    y = Axis(0, 1.08 * max(value for line in series for value in line.y), HEIGHT - BOTTOM, TOP)
    parts = _grid(x, y, percent, x_label)
    for line in series:
        pieces = [f"M{x(line.x[0]):.1f} {y(0):.1f}"]
        pieces += [f"V{y(value):.1f}H{x(edge + width):.1f}" for edge, value in zip(line.x, line.y, strict=True)]
        outline = f"{''.join(pieces)}V{y(0):.1f}"
        if len(series) == 1:  # filled outlines that overlap mix to a colour of neither
            parts.append(f'<path class="area fill s{line.colour}" d="{outline}Z"/>')
        parts.append(f'<path class="line s{line.colour}" d="{outline}"/>')
    shares = [(line.name, dict(zip(line.x, line.y, strict=True))) for line in series]
    for edge in edges:
        span = f"{edge:.0f} to {edge + width - 1:.0f}" if width > 1 else f"{edge:.0f}"
        values = [f"{name} {percent(share.get(edge, 0.0))}" for name, share in shares]
        parts.append(_hint(x(edge), x(edge + width) - x(edge), " · ".join([f"{span} {x_label}", *values])))
    return _svg(parts, label)


def bars(labels: Sequence[str], values: Sequence[float], label: str, show=number) -> str:
    """One bar per label, its value above it."""
    x = Axis(0, len(values), LEFT, WIDTH - RIGHT)
    y = Axis(0, 1.15 * max([*values, 1e-9]), HEIGHT - BOTTOM, TOP)
    width = 0.62 * (x(1) - x(0))
    parts = [*_grid(x, y, show, "", ticks_x=False)]
    for i, (name, value) in enumerate(zip(labels, values, strict=True)):
        centre = x(i + 0.5)
        parts.append(_rect(1, centre - width / 2, y(value), width, y(0), f"{name}: {show(value)}"))
        parts.append(_text("value", centre, y(value) - 5, show(value)))
        parts.append(_text("tick", centre, HEIGHT - BOTTOM + 16, name))
    return _svg(parts, label)


def intervals(
    labels: Sequence[str],
    values: Sequence[float],
    bounds: Sequence[tuple[float, float] | None],
    colours: Sequence[int],
    label: str,
    guessing: float | None = None,
) -> str:
    """Shares 0..1 as horizontal bars with their intervals, one row per label, and a broken line at `guessing`."""
    left, row = 200, 34
    height = TOP + row * len(values) + 30
    x = Axis(0, 1, left, WIDTH - 54)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line("grid", x(tick), TOP, x(tick), height - 26))
        parts.append(_text("tick", x(tick), height - 10, percent(tick)))
    if guessing is not None:
        parts.append(_line("guessing", x(guessing), TOP, x(guessing), height - 26))
    for i, (name, value, bound, colour) in enumerate(zip(labels, values, bounds, colours, strict=True)):
        middle, end, title = TOP + row * (i + 0.5), x(value), f"{name}: {100 * value:.1f}%"
        if bound:
            title += f", 95% interval {100 * bound[0]:.1f} to {100 * bound[1]:.1f}%"
        parts.append(_text("name", left - 10, middle + 4, name if len(name) <= 30 else name[:29] + "…", "end"))
        parts.append(_rect(colour, x(0), middle - 9, x(value) - x(0), middle + 9, title))
        if bound:
            low, end = x(bound[0]), x(bound[1])
            parts.append(_line("whisker", low, middle, end, middle))
            parts += [_line("whisker", tip, middle - 5, tip, middle + 5) for tip in (low, end)]
        parts.append(_text("value", max(end, x(value)) + 7, middle + 4, f"{100 * value:.1f}%", "start"))
    return _svg(parts, label, height)


def _axes(steps: Sequence[float], low: float, high: float, log: bool) -> tuple[Axis, Axis]:
    first, last = (min(steps), max(steps)) if steps else (0.0, 1.0)
    if first == last:
        first, last = first - 1, last + 1
    return Axis(first, last, LEFT, WIDTH - RIGHT), Axis(low, high, HEIGHT - BOTTOM, TOP, log)


def _grid(
    x: Axis, y: Axis, show, x_label: str, ticks_x: bool = True, names: Mapping[float, str] | None = None
) -> list[str]:
    parts = []
    if y.log:
        decades = range(round(math.log10(y.low)), round(math.log10(y.high)) + 1)
        ticks = [(10.0**power, decade(power)) for power in decades[:: max(1, math.ceil(len(decades) / 6))]]
    else:
        ticks = [(tick, show(tick)) for tick in nice_ticks(y.low, y.high)]
    for tick, text in ticks:
        parts.append(_line("grid", LEFT, y(tick), WIDTH - RIGHT, y(tick)))
        parts.append(_text("tick", LEFT - 7, y(tick) + 3.5, text, "end"))
    for place, name in (names or {}).items():
        at_end = x(place) >= x.end  # half of it would be cut off
        parts.append(_text("tick", x(place) + 12 * at_end, HEIGHT - BOTTOM + 15, name, "end" if at_end else "middle"))
    if ticks_x and not names:
        for tick in nice_ticks(x.low, x.high, 7):
            if tick == int(tick):
                parts.append(_text("tick", x(tick), HEIGHT - BOTTOM + 15, f"{tick:.0f}"))
    parts.append(_text("tick", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label))
    return parts


def _path(xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis, css: str) -> str:
    pieces, pen_down = [], False
    for step, value in zip(xs, ys, strict=True):
        if not math.isfinite(value):
            pen_down = False  # a gap, not a line across it
            continue
        pieces.append(f"{'L' if pen_down else 'M'}{x(step):.1f} {y(value):.1f}")
        pen_down = True
    return f'<path class="{css}" d="{"".join(pieces)}"/>'


def _hover(series: Sequence[Series], x: Axis, show, x_label: str, names: Mapping[float, str]) -> list[str]:
    """One invisible column per step whose tooltip gives every line's value there; at most 240 of them."""
    values: dict[float, list[str]] = {}
    for line in series:
        for step, value in zip(line.x, line.y, strict=True):
            values.setdefault(step, []).append(f"{line.name} {show(value)}")
    steps = sorted(values)
    steps = steps[:: max(1, math.ceil(len(steps) / 240))]
    width = (x.end - x.start) / max(1, len(steps))
    heads = [f"{x_label} {names.get(step, f'{step:.0f}')}" for step in steps]
    return [
        _hint(x(step) - width / 2, width, " · ".join([head, *values[step]]))
        for step, head in zip(steps, heads, strict=True)
    ]


def _hint(left: float, width: float, text: str) -> str:
    """An invisible column of the plot with a tooltip."""
    box = f'x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"'
    return f'<rect class="hover" {box}><title>{escape(text)}</title></rect>'


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _dot(colour: int, x: float, y: float) -> str:
    return f'<circle class="dot s{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def _rect(colour: int, left: float, top: float, width: float, bottom: float, title: str = "") -> str:
    box = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{max(0.0, bottom - top):.1f}"'
    return f'<rect class="fill s{colour}" {box}>{f"<title>{escape(title)}</title>" if title else ""}</rect>'


def _text(css: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], label: str, height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
