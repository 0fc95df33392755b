"""What happens after a failure: waits, the end of retries, and operators' changes."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.policy import (
    AfterFailure,
    Exhausted,
    GiveUp,
    PolicyChange,
    RetryPolicy,
    TryAgain,
    Wait,
    after_failure,
    effective_policy,
)


def middle() -> float:
    return 0.5


def decision(policy: RetryPolicy, attempt: int, error: BaseException | None = None) -> AfterFailure:
    return after_failure(policy, error or ValueError(), attempt, middle)


def test_each_wait_is_twice_as_long_up_to_the_longest() -> None:
    policy = RetryPolicy(attempts=5, backoff_seconds=0.5, longest_backoff_seconds=3.0)
    assert [decision(policy, attempt) for attempt in range(1, 6)] == list(map(TryAgain, (0.5, 1.0, 2.0, 3.0, 3.0)))
    assert RetryPolicy(sys.maxsize).wait_after(10_000, 0.5) == 300.0


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 8.0), (0.5, 10.0), (1.0, 12.0)])
def test_jitter_is_a_fraction_of_the_wait_either_way(random: float, seconds: float) -> None:
    assert RetryPolicy(backoff_seconds=10.0, jitter=0.2).wait_after(1, random) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("exhausted", "after"),
    [("park", Wait(4.0, False)), ("hold", Wait(None, False)), ("stop", Wait(0.0, True)), ("dead_letter", GiveUp())],
)
def test_what_happens_after_the_last_retry(exhausted: Exhausted, after: AfterFailure) -> None:
    policy = RetryPolicy(attempts=2, backoff_seconds=1.0, exhausted=exhausted)
    assert decision(policy, 2) == TryAgain(2.0)
    assert decision(policy, 3) == after


def test_an_error_that_is_not_retried_counts_as_the_last_attempt() -> None:
    policy = RetryPolicy(only=(ConnectionError,), exhausted="dead_letter")
    assert isinstance(decision(policy, 1, ConnectionResetError()), TryAgain)
    assert decision(policy, 1, ValueError()) == GiveUp()
    assert decision(RetryPolicy(attempts=2, only=(ConnectionError,)), 1) == Wait(4.0, False)  # as after the last retry


def test_an_operators_change_overrides_the_declaration_which_overrides_the_settings() -> None:
    settings, own = RetryPolicy(7, 1.0, exhausted="hold"), RetryPolicy(2, 5.0)
    assert effective_policy(settings, None, None) == settings
    assert effective_policy(settings, own, None) == own
    assert effective_policy(settings, "stop", None) == RetryPolicy(7, 1.0, exhausted="stop")
    assert effective_policy(settings, own, PolicyChange(attempts=0, exhausted="hold")) == RetryPolicy(0, 5.0, exhausted="hold")


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": -1},
        {"backoff_seconds": -0.1},
        {"jitter": 1.5},
        {"exhausted": "explode"},
        {"only": (ValueError, "TypeError")},
    ],
)
def test_an_invalid_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError):
        RetryPolicy(**wrong)


class Nothing:
    pass


def declared(**how: Any) -> Any:
    return declare(lambda message, state: None, name="n", state=Nothing, key=lambda message: "k", **how)


def test_limits_are_timedeltas_or_numbers_of_seconds() -> None:
    made = declared(time_limit=timedelta(minutes=1), deduplicate=30)
    assert (made.time_limit_seconds, made.deduplicate_seconds) == (60.0, 30.0)


@pytest.mark.parametrize(
    "wrong", [{"on_error": "explode"}, {"time_limit": 0}, {"time_limit": "1"}, {"deduplicate": -1}, {"time_limit": True}]
)
def test_an_invalid_declaration_is_refused_with_what_is_expected(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="must be"):
        declared(**wrong)
