"""Due timers take turns with other messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from celery_partitions import Context, Timer, computation, key_extractor, state_computation
from celery_partitions.model.items import Item
from celery_partitions.store.commits import MAX_DUE, Reply
from celery_partitions.store.leases import Lease
from celery_partitions.worker.due_turns import FEW_DUE, GROUP_SECONDS, OTHERS_SECONDS, PATIENCE_SECONDS, DueTurns
from celery_partitions.worker.owned import OwnedPartition
from tests.fundamentals.live import LiveGroup
from tests.model.build import raw_envelope, raw_message, read
from tests.worker.by_hand import LoopByHand, loop_by_hand

NOW = 1_000.0


class Seen:
    times = 0
    rang = False


@key_extractor
def key_of(message: str) -> str:
    return message


@state_computation("tests.due: count", state=Seen, key=key_of)
def count(message: str, seen: Seen, context: Context) -> None:
    seen.times += 1
    if message.startswith("timer"):
        context.timers.set("bell", after=0)


@count.on_timer("bell")
def bell(timer: Timer, seen: Seen) -> None:
    seen.rang = True


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

    def limits(self, *, is_group: bool = False) -> tuple[int, int]:
        return self.turns.limit(self.one, is_group=is_group), self.turns.limit(self.two, is_group=is_group)

    def group_took(self, seconds: float) -> None:
        self.turns.saw(items(*[FIRING] * FEW_DUE))
        self.turns.took(seconds)


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


def test_while_others_come_a_few_join_and_only_at_the_turn_of_due_messages() -> None:
    """A message that wakes its partition, or comes during a commit, finds no due messages before it in the queue."""
    world = Turns()
    world.turns.saw(items(FIRING, LIVE))
    world.turns.answered(world.one)
    assert world.limits() == (0, FEW_DUE), "of the other it is not known that any are due"
    assert world.limits(is_group=True) == (FEW_DUE, FEW_DUE)
    world.one.next_due = None
    world.turns.answered(world.one)
    assert world.limits() == (FEW_DUE, FEW_DUE)


def test_others_get_as_much_time_as_a_group_took() -> None:
    world = Turns()
    world.turns.saw(items(LIVE))
    world.turns.took(0.1)
    assert not world.turns.put_off(world.one), "no group was in it"
    world.turns.saw(items(LIVE, FIRING))
    world.turns.took(0.1)
    world.turns.answered(world.one)
    assert world.turns.put_off(world.two) and not world.one.has_due and not world.two.has_due
    world.now += 0.11
    assert world.one.has_due and world.two.has_due and not world.turns.put_off(world.two)


def test_if_no_partition_is_ready_due_messages_go_on() -> None:
    world = Turns()
    world.turns.saw(items(LIVE))
    assert not world.turns.holds
    world.group_took(0.1)
    assert world.turns.put_off(world.one) and world.turns.holds
    world.turns.go_on()
    assert world.one.has_due and not world.turns.holds and not world.turns.put_off(world.one)


def test_a_partition_that_always_has_others_gets_a_group_now_and_then() -> None:
    world = Turns()
    world.turns.saw(items(LIVE))
    world.turns.answered(world.one)
    assert world.turns.limit(world.one) == 0
    world.now += PATIENCE_SECONDS
    assert world.turns.limit(world.one) == FEW_DUE
    assert world.turns.limit(world.one) == 0


def test_of_slow_handlers_a_group_has_fewer() -> None:
    world = Turns()
    world.turns.saw(items(LIVE))
    for seconds, few in ((2 * GROUP_SECONDS, FEW_DUE // 2), (60.0, 1), (GROUP_SECONDS / 2, FEW_DUE)):
        world.group_took(seconds)
        assert world.turns.limit(world.one, is_group=True) == few


def test_when_no_others_come_any_more_all_join_again() -> None:
    world = Turns()
    world.turns.saw(items(LIVE))
    world.now += OTHERS_SECONDS
    world.turns.saw(items(FIRING))
    assert world.limits() == (MAX_DUE, MAX_DUE)


TIMERS = 3 * FEW_DUE
OTHERS = ["first", *(f"live {number}" for number in range(7))]


class Ringing:
    """A loop with timers that are due, after which others came. Its due turns have a clock that moves when the test moves it."""

    def __init__(self, live: LiveGroup, loop: LoopByHand) -> None:
        self.live, self.loop, self.now = live, loop, 0.0
        loop.due_turns = DueTurns(lambda: self.now)
        live.send(count, [*(f"timer {number}" for number in range(TIMERS)), "first"])
        loop.look_again()
        while not self.seen("first"):
            self.turn()

    def turn(self) -> None:
        self.now += 0.01
        owned = self.loop.next_partition()
        if owned is None:
            self.loop.wait()
        else:
            self.loop.work(owned)
        self.loop.commits.settle()

    def seen(self, key: str) -> int:
        found = self.states.get(key)
        return 0 if found is None else found.times

    def rang(self) -> int:
        return sum(found.rang for found in self.states.values())

    @property
    def states(self) -> dict[str, Seen]:
        return self.live.group.states.get_many(count.computation, [*(f"timer {number}" for number in range(TIMERS)), *OTHERS])


@contextmanager
def ringing(live: LiveGroup) -> Iterator[Ringing]:
    with loop_by_hand(live) as loop:
        yield Ringing(live, loop)


def test_others_never_starve_under_timers(make_live: Callable[..., LiveGroup]) -> None:
    """Whatever number of timers is due, a message waits for no other group than the one that is processed when it comes."""
    with ringing(make_live(PARTITIONS=1)) as world:
        for number in range(2):
            before = world.rang()
            while world.rang() == before:
                world.turn()
            before = world.rang()
            assert before < TIMERS
            world.live.send(count, [f"live {number}"])
            world.loop.look_again()
            while not world.seen(f"live {number}"):
                world.turn()
            assert world.rang() == before


def test_timers_never_starve_under_others(make_live: Callable[..., LiveGroup]) -> None:
    """The queue is never empty, because as many messages come as a turn takes. All timers fire."""
    with ringing(make_live(PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=10)) as world:
        world.live.send(count, ["live 0"] * 20)
        world.loop.look_again()
        for _ in range(200):
            world.live.send(count, [f"live {number % 7}" for number in range(10)])
            world.turn()
            world.now += PATIENCE_SECONDS / 2
            assert world.loop.owned.messages
            if world.rang() == TIMERS:
                return
        raise AssertionError("timers starve")
