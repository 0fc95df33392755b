"""Waits while a server has a problem: they double, are bounded, differ between workers, and restart after a success."""

from __future__ import annotations

from celery_partitions.worker.backoff import FIRST_SECONDS, JITTER, LONGEST_SECONDS, Backoff


def test_waits_double_up_to_the_longest_and_restart_after_a_success() -> None:
    backoff = Backoff(lambda: 0.0)
    waits = [backoff.next_seconds() for _ in range(12)]
    assert waits[:4] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS, 8 * FIRST_SECONDS]
    assert waits[-1] == max(waits) == LONGEST_SECONDS
    backoff.worked()
    assert backoff.next_seconds() == FIRST_SECONDS


def test_a_wait_is_shorter_at_random_and_never_longer() -> None:
    assert Backoff(lambda: 1.0).next_seconds() == FIRST_SECONDS * (1 - JITTER)


def test_no_wait_is_longer_than_requested() -> None:
    backoff = Backoff(lambda: 0.0, longest=0.3)
    assert [backoff.next_seconds() for _ in range(4)] == [0.1, 0.2, 0.3, 0.3]
