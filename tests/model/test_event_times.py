"""Event times that are wrong or late: one far in the future does not make later messages late, and what windows drop is counted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celery_partitions.pipeline.windows import range_windows, seconds
from celery_partitions.producer.pipelines import source
from tests.model.piped import payloads, send
from tests.model.test_timers import Gather, Key

NOW = 1_000_000.0
HOUR = 3_600.0


def key_of(late: str = "drop", limit: float | None = HOUR) -> Key:
    windows = range_windows(seconds(10)).with_late_data_policy(late).over(Gather)  # type: ignore[arg-type]
    return Key(windows, event_time=lambda value: value, max_event_time_ahead_seconds=limit)


def test_one_far_in_the_future_becomes_a_dead_letter_and_later_ones_count() -> None:
    key = key_of()
    outcome = key.do([send(NOW + HOUR + 1, "m-0"), *(send(NOW + n * 10, f"m-{n}") for n in range(50))], NOW)
    ((dead, attempts),) = outcome.dead
    assert (dead.reason, dead.message_id, attempts) == ("event-time-ahead", "m-0", 1)
    assert "3601 s ahead of the server's clock; the source 'in' accepts 3600 s (max_event_time_ahead)" in dead.error
    assert payloads(outcome) == [[NOW + n * 10] for n in range(49)]
    assert outcome.late == 0 and not outcome.failures


@pytest.mark.parametrize("ahead", [0.0, HOUR])
def test_one_within_the_limit_is_accepted(ahead: float) -> None:
    assert not key_of().do([send(NOW + ahead)], NOW).dead


def test_without_a_limit_any_time_is_accepted() -> None:
    outcome = key_of(limit=None).do([send(NOW * 2)], NOW)
    assert not outcome.dead and outcome.states


@pytest.mark.parametrize(("policy", "count"), [("drop", 2), ("fire-per-message", 0), ("place-in-oldest-window", 0)])
def test_late_messages_that_are_dropped_are_counted(policy: str, count: int) -> None:
    key = key_of(policy)
    outcome = key.do([send(NOW, "m-0"), send(NOW + 100, "m-1"), send(NOW - 5, "m-2"), send(NOW - 6, "m-3")], NOW)
    assert outcome.late == count
    (counts,) = [effect.counts for effect in outcome.written("0", 1, {}) if hasattr(effect, "counts")]
    assert counts["late"] == count


def test_a_message_that_fails_after_it_was_dropped_is_not_counted() -> None:
    """Its windows drop one, then another stage of the same message fails: the whole message is undone."""
    key = key_of()
    key.do([send(NOW + 100)], NOW)
    outcome = key.do([send(NOW, "m-0"), send("no time", "m-1")], NOW)
    assert (outcome.late, len(outcome.done), len(outcome.dead)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("given", "expected"), [({}, HOUR), ({"max_event_time_ahead": None}, None), ({"max_event_time_ahead": timedelta(days=1)}, 86_400.0)]
)
def test_the_limit_is_an_hour_unless_the_source_says_otherwise(given: dict[str, Any], expected: float | None) -> None:
    assert source("readings", event_time=float, **given).node.max_event_time_ahead_seconds == expected
