"""A bar chart of all measures as plain SVG, without a dependency, for a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tests.benchmarks.samples import Row

WIDTH = 900
LABEL_WIDTH = 300
BAR_WIDTH = 420
BAR_HEIGHT = 18
GAP = 6
#: Bars that differ by more than this factor are drawn on a logarithmic scale, because the small one would be invisible.
LOGARITHMIC_FROM = 20.0


def chart(rows: Sequence[Row], subtitle: str) -> str:
    """One panel per measure: a bar for us and one for each candidate, with its figure."""
    parts: list[str] = []
    top = 60
    for measure, bars in panels(rows).items():
        figures = [value for _, value in bars]
        logarithmic = max(figures) > LOGARITHMIC_FROM * min(figures)
        unit = next(row.unit for row in rows if row.measure == measure)
        scale = ", logarithmic" if logarithmic else ""
        parts.append(text(10, top + 14, f"{measure} [{unit}{scale}]", weight="bold"))
        top += 22
        for name, value in bars:
            fill = "#37814a" if name == "ours" else "#9aa5b1"
            length = BAR_WIDTH * share(value, figures, logarithmic=logarithmic)
            parts.append(text(LABEL_WIDTH - 8, top + 13, name, anchor="end"))
            size = f'width="{length:.1f}" height="{BAR_HEIGHT}"'
            parts.append(f'<rect x="{LABEL_WIDTH}" y="{top}" {size} fill="{fill}"/>')
            parts.append(text(LABEL_WIDTH + length + 6, top + 13, f"{value:,.{0 if value >= 100 else 2}f}"))
            top += BAR_HEIGHT + GAP
        top += 16
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" '
        f'viewBox="0 0 {WIDTH} {top}" font-family="sans-serif" font-size="13">'
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>'
    )
    title = text(10, 24, "celery-partitions, measured", weight="bold") + text(10, 44, subtitle)
    return "\n".join([head, title, *parts, "</svg>"]) + "\n"


def panels(rows: Sequence[Row]) -> dict[str, list[tuple[str, float]]]:
    """measure -> [(candidate, figure)], ours first, without failed candidates."""
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        bars = found.setdefault(row.measure, [("ours", row.ours)])
        if row.against:
            bars.append((row.against, row.theirs))
    measured = {
        measure: [(name, value) for name, value in bars if value > 0] for measure, bars in found.items()
    }
    return {measure: bars for measure, bars in measured.items() if bars}


def share(value: float, figures: Sequence[float], *, logarithmic: bool) -> float:
    """The fraction of the full width that a bar takes: 0 to 1."""
    if not logarithmic:
        return value / max(figures)
    # The scale starts one decade below the smallest figure, so that it still has a bar.
    low = math.log10(min(figures)) - 1
    return (math.log10(value) - low) / (math.log10(max(figures)) - low)


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    """One line of text."""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
