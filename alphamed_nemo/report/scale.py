"""From values to pixels: axes, round ticks, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A mapping of values to pixels, linear or base-10 logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def number(value: float) -> str:
    """A value for people: about three digits, no trailing zeros."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    size = abs(value)
    if size >= 10_000 or size < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    digits = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"


def percent(value: float) -> str:
    """A share as a percentage, to three digits: what is not zero never reads as 0%."""
    return f"{number(100 * value)}%"


def decade(power: int) -> str:
    """A power of ten on a logarithmic axis, written alike for all of them: 10⁻⁵."""
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values that cover low..high from inside."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Centred moving mean; the window shrinks at both ends, so nothing is invented beyond the data."""
    half = window // 2
    out = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        part = values[i - reach : i + reach + 1]
        out.append(sum(part) / len(part))
    return out


def padded_range(values: Sequence[float], log: bool = False) -> tuple[float, float]:
    """Axis limits around the values; at least one decade on a logarithmic axis."""
    values = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not values:
        return (1e-6, 1.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        return 10 ** math.floor(math.log10(low) - 1e-9), 10 ** math.ceil(math.log10(high) + 1e-9)
    space = 0.08 * (high - low) or max(abs(high) * 0.1, 0.5)
    return (0.0 if 0 <= low < 0.5 * high else low - space), high + space


def duration(seconds: float) -> str:
    """Seconds as people write them: 8.4 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
