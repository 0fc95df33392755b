"""Fingerprints: similar failures share one, different failures do not."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from celery_partitions.admin.dead_letter_query import grouped
from celery_partitions.admin.dead_letters import fingerprint
from celery_partitions.store.dead_letters import DeadLetter

TRACE = """Traceback (most recent call last):
  File "/srv/app/.venv/lib/python3.11/site-packages/tasks/model/step.py", line 20, in call
    item.computation.function(*arguments)
  File "/srv/app/shop/prices.py", line {line}, in update
    state.price = {code}
  File "/srv/app/.venv/lib/python3.11/site-packages/numbers.py", line 7, in parse
    raise ValueError(text)
ValueError: {text}
"""


def dead_letter(
    dead_letter_id: str = "1", *, line: int = 5, code: str = "parse(stock)", text: str = "no", at: float = 1.0, **more: Any
) -> DeadLetter:
    values: dict[str, Any] = {
        "reason": "computation-failed",
        "error": f"ValueError: {text}",
        "trace": TRACE.format(line=line, code=code, text=text),
        "task": "update",
        "message_id": None,
        "key": "AAPL",
        "attempts": 4,
        **more,
    }
    return DeadLetter(id=dead_letter_id, partition="1", died_at=at, raw=base64.b64encode(b"m").decode(), **values)


@pytest.mark.parametrize(
    "other",
    [{"line": 99}, {"text": "other text, 'x' 17"}, {"key": "MSFT"}, {"attempts": 1}, {"message_id": "id-1"}],
)
def test_similar_failures_have_the_same_fingerprint(other: dict[str, Any]) -> None:
    assert fingerprint(dead_letter()) == fingerprint(dead_letter(**other))
    assert len(fingerprint(dead_letter())) == 8


@pytest.mark.parametrize(
    "other",
    [{"code": "round(stock)"}, {"task": "other"}, {"reason": "bad-key"}, {"error": "KeyError: no"}],
)
def test_different_failures_have_different_fingerprints(other: dict[str, Any]) -> None:
    assert fingerprint(dead_letter()) != fingerprint(dead_letter(**other))


def test_a_frame_of_an_installed_package_is_not_the_place_of_a_failure() -> None:
    elsewhere = dead_letter(trace=TRACE.format(line=5, code="parse(stock)", text="no").replace("numbers.py", "other.py"))
    assert fingerprint(dead_letter()) == fingerprint(elsewhere)


def test_without_a_trace_the_text_counts_except_numbers_and_quoted_parts() -> None:
    one = dead_letter(reason="bad-message", trace="", error="stock: Expected float, got str - at $.price of 'AAPL', byte 17")
    two = dead_letter(reason="bad-message", trace="", error="stock: Expected float, got str - at $.price of 'MSFT', byte 3")
    three = dead_letter(reason="bad-message", trace="", error="stock: Expected str, got int - at $.symbol of 'MSFT', byte 3")
    assert fingerprint(one) == fingerprint(two) != fingerprint(three)


def test_groups_are_counted_with_the_newest_as_example() -> None:
    dead_letters = [
        dead_letter("1", at=1.0),
        dead_letter("2", at=3.0, in_place=True),
        dead_letter("3", at=2.0),
        dead_letter("4", at=9.0, reason="bad-key"),
    ]
    first, second = grouped(iter(dead_letters))
    assert (first.count, first.in_place, first.newest[0].id, first.oldest_died_at) == (3, 1, "2", 1.0)
    assert (second.count, second.newest[0].id, second.fingerprint) == (1, "4", fingerprint(dead_letters[3]))
    assert grouped([]) == []
