"""What happens after the last retry, by policy. Only the key of the failed message waits, except with `stop`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import redis

from celery_partitions.model.effects import ParkedKey
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.parked_keys import look_up_parked, mailbox_lengths
from tests.fundamentals.live import LiveGroup
from tests.support.applications import trouble
from tests.support.applications.trouble import BROKEN, Trouble, policed
from tests.support.wait import wait_until

QUICK = {"PARTITIONS": 1, "PARTITIONS_RETRY_ATTEMPTS": 1, "PARTITIONS_RETRY_BACKOFF_SECONDS": 0.1}
#: Number 2 fails. The message of "other" is behind it in the same partition.
SENT = [Trouble("k", 1), Trouble("k", 2, "fail"), Trouble("k", 3), Trouble("other", 4)]


@pytest.fixture
def start(make_live: Callable[..., LiveGroup]) -> Callable[..., LiveGroup]:
    def start(exhausted: str, **env: object) -> LiveGroup:
        live = make_live(**{**QUICK, "PARTITIONS_RETRY_EXHAUSTED": exhausted, **env})
        live.client.set(BROKEN, 1)
        live.start_worker(module=trouble.__name__)
        live.send(policed, SENT)
        return live

    return start


def parked(live: LiveGroup, key: str = "k") -> ParkedKey | None:
    return look_up_parked(live.client, live.names, "0", [key]).parked.get(key)


def dead_letter_in_place(live: LiveGroup) -> DeadLetter:
    """The dead letter of message 2, which is still in its mailbox."""
    (dead_letter,) = wait_until(live.dead_letters)
    assert (dead_letter.in_place, dead_letter.key, dead_letter.error) == (True, "k", "ValueError: 2 fails on purpose")
    return dead_letter


def waits_behind_2(live: LiveGroup) -> None:
    """Other keys continue. The key's messages wait in order, and none of them is in the state."""
    wait_until(lambda: live.numbers_of(policed, "other") == [4])
    assert live.numbers_of(policed, "k") == [1]
    assert mailbox_lengths(live.client, live.names, "0", ["k"]) == {"k": 2}


def test_park_retries_until_it_succeeds_and_removes_the_dead_letter(start: Callable[..., LiveGroup]) -> None:
    live = start("park", PARTITIONS_RETRY_LONGEST_BACKOFF_SECONDS=0.2)
    dead_letter_in_place(live)
    waits_behind_2(live)
    wait_until(lambda: (parked(live) or ParkedKey(0, 0)).attempt > 4)
    assert dead_letter_in_place(live).attempts >= 3
    live.client.delete(BROKEN)
    wait_until(lambda: live.numbers_of(policed, "k") == [1, 2, 3])
    wait_until(lambda: not live.dead_letters() and parked(live) is None)


def test_hold_waits_for_an_operator(start: Callable[..., LiveGroup]) -> None:
    live = start("hold")
    dead_letter_in_place(live)
    waits_behind_2(live)
    fact = parked(live)
    assert fact is not None and fact.due is None
    live.client.delete(BROKEN)
    fact.due, fact.attempt = 0.0, 1
    edit(live, lambda pipe: pipe.hset(live.names.parked("0"), "k", msgspec.json.encode(fact)))
    wait_until(lambda: live.numbers_of(policed, "k") == [1, 2, 3])
    wait_until(lambda: not live.dead_letters())


def test_dead_letter_lets_the_key_continue(start: Callable[..., LiveGroup]) -> None:
    live = start("dead_letter")
    wait_until(lambda: live.numbers_of(policed, "k") == [1, 3])
    (dead_letter,) = live.dead_letters()
    assert not dead_letter.in_place and parked(live) is None


def test_stop_pauses_the_partition_until_it_is_resumed(start: Callable[..., LiveGroup]) -> None:
    live = start("stop")
    dead_letter_in_place(live)
    wait_until(lambda: live.status()["partition.0"].paused)
    live.send(policed, [Trouble("late", 5)])
    waits_behind_2(live)
    assert live.numbers_of(policed, "late") == []
    live.client.delete(BROKEN)
    edit(live, lambda pipe: pipe.hdel(live.names.meta("0"), "paused"))
    wait_until(lambda: live.numbers_of(policed, "late") == [5])
    wait_until(lambda: live.numbers_of(policed, "k") == [1, 2, 3])


def test_with_a_full_mailbox_later_messages_become_dead_letters(start: Callable[..., LiveGroup]) -> None:
    live = start("hold", PARTITIONS_MAILBOX_MESSAGES=3)
    live.send(policed, [Trouble("k", number) for number in (6, 7, 8)])
    wait_until(lambda: len(live.dead_letters()) == 3)
    assert sorted(dead_letter.reason for dead_letter in live.dead_letters()) == ["computation-failed", "mailbox-full", "mailbox-full"]
    assert mailbox_lengths(live.client, live.names, "0", ["k"]) == {"k": 3}


def test_a_full_mailbox_stops_the_partition_if_the_policy_is_stop(start: Callable[..., LiveGroup]) -> None:
    live = start("stop", PARTITIONS_MAILBOX_MESSAGES=2, PARTITIONS_RETRY_ATTEMPTS=5, PARTITIONS_RETRY_BACKOFF_SECONDS=30)
    live.send(policed, [Trouble("k", 6), Trouble("k", 7)])
    wait_until(lambda: live.status()["partition.0"].paused)
    assert not live.dead_letters()
    assert live.status()["partition.0"].length == 2


def test_an_operator_changes_the_policy_of_a_running_worker(start: Callable[..., LiveGroup]) -> None:
    live = start("hold")
    dead_letter_in_place(live)
    live.client.hset(live.names.policies, "policed", '{"attempts": 0, "exhausted": "dead_letter"}')
    live.client.publish(live.names.changed, "")
    wait_until(lambda: "changed the policy of 'policed'" in live.workers[0].log_tail())
    live.send(policed, [Trouble("third", 9, "fail"), Trouble("third", 10)])
    wait_until(lambda: live.numbers_of(policed, "third") == [10])
    assert [dead_letter.in_place for dead_letter in live.dead_letters() if dead_letter.key == "third"] == [False]


def edit(live: LiveGroup, change: Callable[[redis.client.Pipeline], object]) -> None:
    """Change the partition as an operator's commands do: make the change, raise the edit version, and notify the workers."""
    with live.client.pipeline(transaction=True) as pipe:
        change(pipe)
        pipe.hincrby(live.names.meta("0"), "edit_version", 1)
        pipe.publish(live.names.changed, "")
        pipe.execute()
