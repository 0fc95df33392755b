"""Due timers take turns with other messages."""

from __future__ import annotations

from celery_partitions import Timer, computation, key_extractor, state_computation
from celery_partitions.model.items import Item
from celery_partitions.store.commits import MAX_DUE, Reply
from celery_partitions.store.leases import Lease
from celery_partitions.worker.due_turns import FEW_DUE, OTHERS_SECONDS, SPACING_SECONDS, DueTurns
from celery_partitions.worker.owned import OwnedPartition
from tests.model.build import raw_envelope, raw_message, read

NOW = 1_000.0


class Seen:
    times = 0


@key_extractor
def key_of(message: str) -> str:
    return message


@state_computation("tests.due: count", state=Seen, key=key_of)
def count(message: str, seen: Seen) -> None: ...


@count.on_timer("bell")
def bell(timer: Timer, seen: Seen) -> None: ...


@computation("tests.due: other", key=key_of)
def other(message: str) -> None: ...


class Turns:
    """Two partitions that have due timers."""

    def __init__(self) -> None:
        self.now = 5.0
        self.turns = DueTurns(lambda: self.now)
        self.one, self.two = (OwnedPartition(Lease(partition, 1), lambda: self.now) for partition in "12")
        for owned in (self.one, self.two):
            owned.take_reply(Reply("ok", 0, 0, NOW, NOW - 1, []))

    def limits(self) -> tuple[int, int]:
        return self.turns.limit(self.one), self.turns.limit(self.two)


def items(*raws: bytes) -> list[Item]:
    return read([count.computation, *count.computation.handlers.values(), other.computation], list(raws), now=NOW)


FIRING = raw_envelope(b"[[],{},{}]", headers={"task": "tests.due: count @ bell", "partition_key": "a"})
DELAYED = raw_message("tests.due: count", "a", eta="1970-01-01T00:00:01+00:00")
LIVE = raw_message("tests.due: other", "a")


def test_timers_and_delayed_messages_alone_join_their_queues_by_the_thousand() -> None:
    world = Turns()
    world.turns.saw(items(FIRING, DELAYED))
    assert world.limits() == (MAX_DUE, MAX_DUE)
    assert not world.turns.put_off(world.one)


def test_beside_others_a_few_of_one_partition_join_at_a_time() -> None:
    world = Turns()
    world.turns.saw(items(FIRING, LIVE))
    assert world.limits() == (FEW_DUE, 0)
    assert world.turns.put_off(world.two) and not world.two.has_due
    world.now += SPACING_SECONDS * 1.01
    assert world.two.has_due and not world.turns.put_off(world.two)
    assert world.turns.limit(world.two) == FEW_DUE and world.turns.limit(world.one) == 0


def test_others_get_as_much_time_as_a_group_took() -> None:
    world = Turns()
    world.turns.saw(items(LIVE))
    world.turns.took(0.1)
    assert world.limits() == (FEW_DUE, 0), "no group was in it"
    world.now += SPACING_SECONDS * 2
    world.turns.saw(items(FIRING, FIRING))
    world.turns.took(0.1)
    world.turns.answered(world.one)
    assert not world.one.has_due and world.turns.limit(world.one) == 0
    world.now += 0.11
    assert world.one.has_due and world.turns.limit(world.one) == FEW_DUE
    world.one.next_due = None
    world.turns.answered(world.one)
    assert world.turns.limit(world.one) == FEW_DUE


def test_a_partition_without_due_timers_takes_no_turn() -> None:
    world = Turns()
    world.turns.saw(items(LIVE))
    world.one.next_due = None
    assert world.limits() == (FEW_DUE, FEW_DUE)


def test_when_no_others_come_any_more_all_join_again() -> None:
    world = Turns()
    world.turns.saw(items(LIVE))
    world.limits()
    world.now += OTHERS_SECONDS
    world.turns.saw(items(FIRING))
    assert world.limits() == (MAX_DUE, MAX_DUE)
