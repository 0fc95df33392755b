"""`deduplicate=`: if a producer sends a message twice with one id, the state changes once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_partitions.producer.bulk import send_many
from celery_partitions.producer.task import ComputationTask
from celery_partitions.runtime.registry import add_installation, remove_installation
from tests.fundamentals.live import LiveGroup
from tests.support.applications import trouble
from tests.support.applications.trouble import Trouble, once
from tests.support.wait import wait_until


def send(live: LiveGroup, messages: list[Trouble]) -> None:
    """Send in bulk, with the message's number as its id."""
    send_many(live.installation, once.computation, messages, progress=False, id_of=lambda one: f"id-{one.number}")


def deduplicated(live: LiveGroup) -> int:
    counts = (live.client.hget(live.names.meta(partition), "deduplicated") for partition in ("0", "1"))
    return sum(int(count or 0) for count in counts)


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> LiveGroup:
    live = make_live(PARTITIONS=2, PARTITIONS_LEASE_SECONDS=1, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    live.start_worker(module=trouble.__name__)
    return live


def test_the_second_message_with_an_id_changes_nothing_and_is_counted(live: LiveGroup) -> None:
    first = [Trouble(f"k{number % 3}", number) for number in range(30)]
    send(live, first + first[:10])  # in one batch
    wait_until(lambda: live.processed() == 30)
    send(live, first)  # and later
    wait_until(lambda: deduplicated(live) == 40)
    assert live.numbers(once) == {f"k{key}": list(range(key, 30, 3)) for key in range(3)}
    assert live.processed() == 30


def test_ids_are_known_to_the_next_owner(live: LiveGroup) -> None:
    messages = [Trouble("k", number) for number in range(10)]
    send(live, messages)
    wait_until(lambda: live.processed() == 10)
    live.workers[0].kill()
    send(live, [*messages, Trouble("k", 10)])
    live.start_worker(module=trouble.__name__)
    wait_until(lambda: live.numbers_of(once, "k") == list(range(11)))
    assert deduplicated(live) == 10


def test_one_id_in_two_partitions_is_two_messages(live: LiveGroup) -> None:
    """Ids are compared within a partition only."""
    send(live, [Trouble(f"key-{number}", 7) for number in range(8)])
    wait_until(lambda: live.processed() + deduplicated(live) == 8)
    assert live.processed() == 2


def test_a_retried_dead_letter_is_not_a_duplicate_of_itself(live: LiveGroup) -> None:
    send(live, [Trouble("k", 1, "fail")])
    dead_letter = live.dead_letter_of("id-1")
    assert live.group.dead_letters.retry([dead_letter]) == 1
    # It fails again. If it were dropped as a duplicate, there would be no dead letter.
    again = live.dead_letter_of("id-1")
    assert again.id != dead_letter.id and deduplicated(live) == 0


def test_delay_takes_an_id_too(live: LiveGroup) -> None:
    add_installation(live.installation, ComputationTask)  # the one that `delay` uses
    try:
        for _ in range(2):
            once.delay(Trouble("k", 1), message_id="mine")
        once.delay(Trouble("k", 2))
    finally:
        remove_installation(live.installation)
    wait_until(lambda: live.numbers_of(once, "k") == [1, 2])
    wait_until(lambda: deduplicated(live) == 1)


def test_celerys_task_id_is_the_id(live: LiveGroup) -> None:
    for _ in range(2):
        live.send_task("once", {"key": "k", "number": 1}, task_id="mine")
    live.send_task("once", {"key": "k", "number": 2})
    wait_until(lambda: live.numbers_of(once, "k") == [1, 2])
    wait_until(lambda: deduplicated(live) == 1)
