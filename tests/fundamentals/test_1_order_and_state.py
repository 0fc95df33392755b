"""The messages of a key are applied in order, once each, to the key's own state. Other keys do not wait for them."""

from __future__ import annotations

from celery_partitions import partition_of
from tests.fundamentals.application import Meeting, Nap, Step, meet, record, sleep
from tests.fundamentals.live import LiveGroup
from tests.support.history import by_key, check_history, numbered
from tests.support.wait import wait_until


def keys_of_different_workers(live: LiveGroup, key: str) -> tuple[str, str]:
    """Two keys whose partitions have different owners."""
    owners = live.owners()
    names = [f"{key}-{number}" for number in range(100)]
    owner = {name: owners[f"partition.{partition_of(name, 4)}"] for name in names}
    return names[0], next(name for name in names if owner[name] != owner[names[0]])


def test_messages_of_a_key_are_applied_in_the_order_sent(shared: LiveGroup, key: str) -> None:
    shared.send(record, [Step(key, number) for number in range(500)])
    wait_until(lambda: len(shared.numbers_of(record, key)) >= 500)
    assert shared.numbers_of(record, key) == list(range(500))


def test_each_message_is_applied_exactly_once_to_the_state_of_its_own_key(shared: LiveGroup, key: str) -> None:
    messages = list(numbered(f"{key}-{number % 50}" for number in range(5000)))
    shared.send(record, [Step(name, number) for name, number in messages])
    shared.wait_drained()
    applied = {name: numbers for name, numbers in shared.numbers(record).items() if name.startswith(f"{key}-")}
    check_history(by_key(messages), applied)


def test_a_state_is_kept_between_messages_and_found_by_key(shared: LiveGroup, key: str) -> None:
    shared.send_task("record", {"key": key, "number": 1})
    wait_until(lambda: shared.numbers_of(record, key) == [1])
    shared.send_task("record", {"key": key, "number": 2})
    wait_until(lambda: shared.numbers_of(record, key) == [1, 2])
    assert key in list(shared.group.states.keys("record"))


def test_each_computation_has_its_own_state_of_a_key(shared: LiveGroup, key: str) -> None:
    shared.send(record, [Step(key, 1)])
    shared.send(sleep, [Nap(key, 2, 0.0)])
    wait_until(lambda: shared.numbers_of(record, key) and shared.numbers_of(sleep, key))
    assert (shared.numbers_of(record, key), shared.numbers_of(sleep, key)) == ([1], [2])


def test_different_keys_run_at_the_same_time_on_two_workers(shared: LiveGroup, key: str) -> None:
    one, other = keys_of_different_workers(shared, key)
    shared.send(meet, [Meeting(one, 1, other), Meeting(other, 2, one)])
    wait_until(lambda: shared.numbers_of(meet, one) and shared.numbers_of(meet, other))
    assert (shared.numbers_of(meet, one), shared.numbers_of(meet, other)) == ([1], [2])


def test_a_forgotten_key_starts_with_a_new_state(shared: LiveGroup, key: str) -> None:
    shared.send(record, [Step(key, 1)])
    wait_until(lambda: shared.numbers_of(record, key) == [1])
    assert shared.group.states.forget(record.computation, key)
    assert shared.numbers_of(record, key) == []
    shared.send(record, [Step(key, 2)])
    wait_until(lambda: shared.numbers_of(record, key) == [2])
