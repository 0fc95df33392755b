"""Makes a tree of a state object for people: each value with its type. Bounded in depth and size; never raises for any content."""

from __future__ import annotations

import collections
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from celery_partitions.admin.state_json import SCALARS, plain_fields, plain_value, text_of
from celery_partitions.model.errors import encodable

MAX_DEPTH = 20
#: Children shown of one container; the rest is only counted.
MAX_CHILDREN = 200
#: Nodes in a whole tree.
MAX_NODES = 3_000
MAX_TEXT_CHARACTERS = 2_000

_SEQUENCES = (list, tuple, set, frozenset, collections.deque)
_PLAIN = (bool, int, float, str, bytes, bytearray, complex)


@dataclass(slots=True)
class Node:
    """A value with a text, or with children. `more`: the number of children that are not shown."""

    name: str
    type: str
    text: str = ""
    children: list[Node] = field(default_factory=list)
    more: int = 0


class _Budget:
    def __init__(self) -> None:
        self.nodes = MAX_NODES


def tree_of(value: Any, name: str = "") -> Node:
    return _node(value, name, MAX_DEPTH, _Budget())


def _node(value: Any, name: str, depth: int, budget: _Budget) -> Node:
    budget.nodes -= 1
    made = Node(_cut(name), type(value).__qualname__)
    if isinstance(value, SCALARS) and not isinstance(value, (bytes, bytearray)):
        made.text = _cut(str(plain_value(value)))
        return made
    if value is None or isinstance(value, (*_PLAIN, enum.Enum, type)):
        made.text = _text(value)
        return made
    inside = _inside(value)
    if inside is None or depth == 0:
        made.text = _text(value) if inside is None else "…"
        return made
    total, pairs = inside
    for label, child in islice(pairs, MAX_CHILDREN):
        if budget.nodes <= 0:
            break
        made.children.append(_node(child, label, depth - 1, budget))
    made.more = total - len(made.children)
    if not total:
        made.text = "empty"
    return made


def _inside(value: Any) -> tuple[int, Iterable[tuple[str, Any]]] | None:
    try:
        if isinstance(value, Mapping):
            return len(value), ((_label(key), one) for key, one in value.items())
        if isinstance(value, _SEQUENCES):
            return len(value), ((str(number), one) for number, one in enumerate(value))
        fields = plain_fields(value)
    except Exception:
        return None
    return (len(fields), fields.items()) if fields else None


def _label(key: Any) -> str:
    return key if isinstance(key, str) else _text(key)


def _text(value: Any) -> str:
    return _cut(text_of(value))


def _cut(text: str) -> str:
    shown = encodable(text)
    return shown if len(shown) <= MAX_TEXT_CHARACTERS else shown[:MAX_TEXT_CHARACTERS] + "…"
