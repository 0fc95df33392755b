"""Lays out the drawing of a pipeline: boxes in layers from top to bottom, so that it fits a phone, and lines between them. No I/O."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: In pixels. Two boxes beside each other fit a phone.
BOX_WIDTH, BOX_HEIGHT = 158, 62
GAP, LAYER_GAP = 14, 44
#: The width of a line's place in a layer that it only crosses.
LANE_WIDTH = 24
MAX_NAME_CHARACTERS = 18
#: How often the boxes of each layer are put in the order of their neighbours.
SWEEPS = 4


@dataclass(frozen=True, slots=True)
class Box:
    """A part of the pipeline, at its upper left corner."""

    x: int
    y: int
    part: Mapping[str, Any]
    #: The name, cut if it is too long.
    name: str


@dataclass(frozen=True, slots=True)
class Line:
    kind: str
    #: An SVG path.
    path: str


@dataclass(frozen=True, slots=True)
class Drawing:
    width: int
    height: int
    boxes: list[Box]
    lines: list[Line]


@dataclass(slots=True, eq=False)
class _Place:
    """A box, or (`number` is None) a line's crossing of a layer."""

    layer: int
    number: int | None
    x: float = 0.0
    before: list[_Place] = field(default_factory=list)
    after: list[_Place] = field(default_factory=list)

    @property
    def width(self) -> int:
        return LANE_WIDTH if self.number is None else BOX_WIDTH


def draw(pipeline: Mapping[str, Any]) -> Drawing:
    """Draw a pipeline of `celery_partitions.admin.pipelines`."""
    parts, edges = pipeline["parts"], pipeline["edges"]
    places = [_Place(layer, number) for number, layer in enumerate(_layers(len(parts), edges))]
    chains = [_chain(places[edge["start"]], places[edge["end"]]) for edge in edges]
    layers: list[list[_Place]] = [[] for _ in range(max((place.layer for place in places), default=-1) + 1)]
    for place in dict.fromkeys([*places, *(place for chain in chains for place in chain)]):
        layers[place.layer].append(place)
    for layer in layers:
        _put(layer)
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            layer.sort(key=lambda place: _middle(place.before if sweep % 2 == 0 else place.after, place.x))
            _put(layer)
    width = max((sum(place.width for place in layer) + GAP * (len(layer) - 1) for layer in layers), default=0)
    boxes = [
        Box(round(width / 2 + place.x - BOX_WIDTH / 2), _top(place), parts[number], _cut(parts[number]["name"]))
        for number, place in enumerate(places)
    ]
    lines = [Line(edge["kind"], _path(chain, width / 2)) for edge, chain in zip(edges, chains, strict=True)]
    return Drawing(width, len(layers) * (BOX_HEIGHT + LAYER_GAP) - LAYER_GAP if layers else 0, boxes, lines)


def _layers(count: int, edges: Sequence[Mapping[str, Any]]) -> list[int]:
    """Each part's layer: below all parts that lead to it."""
    layers = [0] * count
    for _ in range(count):
        for edge in edges:
            layers[edge["end"]] = max(layers[edge["end"]], min(count - 1, layers[edge["start"]] + 1))
    return layers


def _chain(start: _Place, end: _Place) -> list[_Place]:
    """The places of an edge, with one in each layer that it crosses."""
    chain = [start, *(_Place(layer, None) for layer in range(start.layer + 1, end.layer)), end]
    for before, after in itertools.pairwise(chain):
        before.after.append(after)
        after.before.append(before)
    return chain


def _put(layer: Sequence[_Place]) -> None:
    """Put the places of a layer side by side, around the middle."""
    x = -(sum(place.width for place in layer) + GAP * (len(layer) - 1)) / 2
    for place in layer:
        place.x = x + place.width / 2
        x += place.width + GAP


def _middle(neighbours: Sequence[_Place], default: float) -> float:
    return sum(one.x for one in neighbours) / len(neighbours) if neighbours else default


def _top(place: _Place) -> int:
    return place.layer * (BOX_HEIGHT + LAYER_GAP)


def _path(chain: Sequence[_Place], middle: float) -> str:
    """From the lower edge of the first box to the upper edge of the last one."""
    at = f"M {middle + chain[0].x:.0f} {_top(chain[0]) + BOX_HEIGHT}"
    for place in chain[1:]:
        x, y = middle + place.x, _top(place)
        bend = LAYER_GAP // 2
        at += f" C {middle + chain[chain.index(place) - 1].x:.0f} {y - bend} {x:.0f} {y - bend} {x:.0f} {y}"
        if place.number is None:
            at += f" V {y + BOX_HEIGHT}"
    return at


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARACTERS else name[: MAX_NAME_CHARACTERS - 1] + "…"
