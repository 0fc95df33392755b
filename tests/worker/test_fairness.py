"""A hot key in a worker's loop: the others go first, it has its turns, and its order stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_partitions.store.parked_keys import read_parked
from tests.fundamentals.application import Nap, sleep
from tests.fundamentals.live import LiveGroup
from tests.worker.by_hand import LoopByHand, loop_by_hand

#: Long enough that the loop sees a hot key, on any machine.
SECONDS, MANY = 0.002, 100


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> LiveGroup:
    return make_live(PARTITIONS=1, PARTITIONS_MAILBOX_MESSAGES=2, PARTITIONS_BATCH_SECONDS=60)


def naps(key: str, *numbers: int, seconds: float = SECONDS) -> list[Nap]:
    return [Nap(key, number, seconds) for number in numbers]


def turn(loop: LoopByHand) -> None:
    loop.work(loop.owned)
    loop.commits.settle()


def parked_length(loop: LoopByHand) -> int:
    found = read_parked(loop.client, loop.names, "0", 10)
    assert found is not None
    return found.mailbox_lengths.get("hot", 0)


def test_quiet_keys_do_not_wait_for_a_hot_one(live: LiveGroup, loop: LoopByHand, caplog: pytest.LogCaptureFixture) -> None:
    live.send(sleep, [*naps("hot", *range(MANY)), *naps("a", 0), *naps("b", 0)])
    turn(loop)
    assert live.numbers_of(sleep, "a") == live.numbers_of(sleep, "b") == [0]
    (parked,) = live.group.parked_keys.all()
    assert (parked.key, parked.why, parked.task, parked.error, parked.attempt) == ("hot", "ready", "sleep", "", 1)
    assert [(row.parked, row.running) for row in live.group.status()] == [(0, 1), (0, 0)]
    seen = []
    for number in range(1, 4):  # one more message of each whenever the hot key has had a turn
        live.send(sleep, [*naps("hot", MANY + number - 1), *naps("a", number)])
        loop.look_again()
        turn(loop)
        turn(loop)
        assert live.numbers_of(sleep, "a") == list(range(number + 1))
        seen.append(len(live.numbers_of(sleep, "hot")))
    assert sorted(set(seen)) == seen  # it goes on, too
    (again,) = live.group.parked_keys.all()
    assert (again.why, again.since) == ("ready", parked.since)
    loop.live_until(lambda: not list(live.group.parked_keys.all()))
    assert live.numbers(sleep) == {"hot": list(range(MANY + 3)), "a": [0, 1, 2, 3], "b": [0]}
    assert list(live.group.parked_keys.all()) == live.dead_letters() == []
    assert all(row.parked == row.running == 0 for row in live.group.status())
    assert [one for one in caplog.records if one.levelname == "WARNING"] == []  # nothing has gone wrong


def test_a_hot_key_has_half_of_the_time_while_others_always_wait(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(sleep, [*naps("hot", *range(MANY)), *naps("a", 0)])
    turn(loop)
    busy = 0
    while live.numbers_of(sleep, "hot") != list(range(MANY)):
        live.send(sleep, naps(f"k{busy}", 0, seconds=0.01))
        loop.look_again()
        turn(loop)
        busy += 1
        assert busy < 3 * MANY


def test_a_full_mailbox_of_a_hot_key_makes_the_queue_wait(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_BATCH_SECONDS=60, PARTITIONS_QUEUE_MAX_LENGTH=MANY + 1)
    with loop_by_hand(live) as loop:
        live.send(sleep, [*naps("hot", *range(MANY)), *naps("a", 0)])
        turn(loop)
        live.send(sleep, naps("hot", *range(MANY, 2 * MANY)))
        longest = 0
        while live.numbers_of(sleep, "hot") != list(range(2 * MANY)):
            loop.look_again()
            turn(loop)
            longest = max(longest, parked_length(loop))
        assert MANY / 2 < longest <= MANY + 1
        assert live.numbers_of(sleep, "a") == [0]
        assert live.dead_letters() == []
