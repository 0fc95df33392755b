"""Draws a series of numbers as a line of bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"


def sparkline(series: Sequence[float], width: int) -> str:
    """The series in at most `width` characters, scaled from zero to its highest value. A short series has one character a point."""
    count = len(series)
    if count > width:
        cuts = [number * count // width for number in range(width + 1)]
        series = [sum(series[a:b]) / (b - a) for a, b in pairwise(cuts)]
    highest = max(series, default=0)
    if highest <= 0:
        return BARS[0] * len(series)
    return "".join(BARS[min(7, int(value / highest * 7.999))] for value in series)
