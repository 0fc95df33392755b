"""Many keys in flight: the calls of a key never overlap and start in queue order, and each has its effect once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from celery_partitions.worker.listening import idle_partitions
from tests.fundamentals.live import LiveGroup
from tests.support.applications import waiting
from tests.support.applications.waiting import (
    Visit,
    begun,
    overlaps,
    plain_visit,
    recorded,
    replied_visit,
    strict_visit,
    threaded_visit,
    visit,
)
from tests.support.wait import wait_until
from tests.worker.by_hand import LoopByHand, loop_by_hand

#: Options of the fixture `loop`.
LOOP = {"calls": True}


@pytest.fixture
def live(make_live: Callable[..., LiveGroup], monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveGroup]:
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_BACKOFF_SECONDS=0.01)
    with waiting.recording_to(live.settings.redis_url, monkeypatch):
        yield live


def drained(live: LiveGroup) -> bool:
    return not any(row.length or row.parked or row.running or row.delayed for row in live.group.status())


def until_drained(live: LiveGroup, loop: LoopByHand) -> None:
    loop.look_again()
    loop.live_until(lambda: drained(live))
    assert loop.calls is not None
    assert not loop.owned.calls or not loop.owned.calls.runs
    assert (loop.calls.in_flight.room.counts.total(), loop.calls.in_flight.room.bytes) == (0, 0)


@pytest.mark.parametrize("computation", [visit, threaded_visit, strict_visit], ids=lambda one: one.name)
@pytest.mark.parametrize("seconds", [0.0, 0.05], ids=["short", "long"])
def test_calls_of_a_key_run_one_by_one_while_those_of_other_keys_run(
    live: LiveGroup, loop: LoopByHand, computation: object, seconds: float
) -> None:
    messages = [Visit(f"k{number % 7}", number, seconds) for number in range(35)]
    live.send(computation, messages)  # type: ignore[arg-type]
    until_drained(live, loop)
    lines = recorded(live.client)
    assert overlaps(lines) == []
    wanted = {f"k{key}": [number for number in range(35) if number % 7 == key] for key in range(7)}
    assert begun(lines) == live.numbers(computation) == wanted  # type: ignore[arg-type]
    if seconds:
        assert [line.split()[0] for line in lines[:2]] == ["begin"] * 2, "the calls of two keys ran at once"
    assert live.processed() == 35


def test_a_slow_key_does_not_hold_up_the_others(live: LiveGroup, loop: LoopByHand) -> None:
    """Its messages wait in its mailbox, and the queue is free."""
    live.send(visit, [Visit("slow", number, 1.5) for number in range(2)])
    loop.look_again()
    loop.live_until(lambda: "begin slow 0" in recorded(live.client) and live.status()["partition.0"].running == 1)
    live.send(visit, [Visit(f"k{number % 10}", number) for number in range(100)])
    loop.look_again()
    loop.live_until(lambda: live.processed() == 100)
    assert live.status()["partition.0"].length == 0 and live.status()["partition.0"].parked == 0
    assert "end slow 0" not in recorded(live.client)
    until_drained(live, loop)
    assert live.numbers_of(visit, "slow") == [0, 1]


def test_a_key_whose_mailbox_was_empty_again_keeps_what_waits_there_later(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(visit, [Visit("k", 0, 0.1)])
    until_drained(live, loop)
    live.send(visit, [Visit("k", 1, 0.5)])
    loop.look_again()
    loop.live_until(lambda: [row.running for row in live.group.status()] == [1, 0])
    live.send(visit, [Visit("k", 2)])
    until_drained(live, loop)
    assert live.numbers_of(visit, "k") == [0, 1, 2]


def test_plain_and_waiting_computations_of_a_key_keep_the_order_of_the_queue(live: LiveGroup, loop: LoopByHand) -> None:
    for number in range(30):
        live.send(plain_visit if number % 3 == 1 else visit, [Visit(f"k{number % 2}", number, 0.002)])
    until_drained(live, loop)
    lines = recorded(live.client)
    assert overlaps(lines) == []
    assert begun(lines) == {"k0": list(range(0, 30, 2)), "k1": list(range(1, 30, 2))}


def test_a_hot_key_takes_turns_beside_calls_in_flight(live: LiveGroup, loop: LoopByHand) -> None:
    """Its plain and its waiting messages keep their order."""
    for number in range(60):
        live.send(visit if number % 20 == 19 else plain_visit, [Visit("hot", number, 0.003)])
    live.send(plain_visit, [Visit("quiet", 0)])
    live.send(visit, [Visit("quiet", 1, 0.01)])
    loop.look_again()
    whys = set()

    def is_quiet_done() -> bool:
        whys.update(one.why for one in live.group.parked_keys.all() if one.key == "hot")
        return live.numbers_of(visit, "quiet") == [1]

    loop.live_until(is_quiet_done)
    assert "ready" in whys
    until_drained(live, loop)
    lines = recorded(live.client)
    assert overlaps(lines) == []
    assert begun(lines) == {"hot": list(range(60)), "quiet": [0, 1]}
    assert live.numbers_of(plain_visit, "quiet") == [0]


def test_a_failure_rolls_back_to_the_previous_message_without_calling_it_again(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(visit, [Visit("k", 1, 0.02), Visit("k", 2, 0.02, fails=2), Visit("k", 3), Visit("other", 4, 0.1)])
    until_drained(live, loop)
    assert begun(recorded(live.client)) == {"k": [1, 2, 2, 2, 3], "other": [4]}
    assert live.numbers(visit) == {"k": [1, 2, 3], "other": [4]}


def test_a_state_that_cannot_be_pickled_fails_only_its_message(make_live: Callable[..., LiveGroup], live: LiveGroup, loop: LoopByHand) -> None:
    live.send(visit, [Visit("k", 1), Visit("k", 2, trick="unpicklable"), Visit("k", 3)])
    loop.look_again()
    loop.live_until(lambda: live.status()["partition.0"].parked == 1)
    assert live.numbers(visit) == {"k": [1]}
    assert begun(recorded(live.client))["k"][:2] == [1, 2]


def test_a_failing_thread_is_retried(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(threaded_visit, [Visit("k", number, fails=number % 2) for number in range(6)])
    until_drained(live, loop)
    assert live.numbers(threaded_visit) == {"k": list(range(6))}


def test_an_operators_edit_refuses_only_the_key_of_the_call(live: LiveGroup, loop: LoopByHand) -> None:
    """Its message runs again on the new state. The calls of other keys continue."""
    live.send(visit, [Visit(f"k{number}", number) for number in range(4)])
    until_drained(live, loop)
    live.send(visit, [Visit(f"k{number}", number + 10, 0.5) for number in range(4)])
    loop.look_again()
    loop.live_until(lambda: live.status()["partition.0"].running == 4)
    live.group.states.forget(visit.computation, "k1")
    until_drained(live, loop)
    assert live.numbers(visit) == {"k0": [0, 10], "k1": [11], "k2": [2, 12], "k3": [3, 13]}
    assert begun(recorded(live.client)) == {"k0": [0, 10], "k1": [1, 11, 11], "k2": [2, 12], "k3": [3, 13]}
    assert overlaps(recorded(live.client)) == []


def test_a_lost_reply_that_shows_an_edit_leaves_no_old_state_in_memory(live: LiveGroup, loop: LoopByHand) -> None:
    """The commit is sent again, and the answer is the first to show what an operator changed in between."""
    live.send(visit, [Visit("k", 1)])
    loop.look_again()
    wait_until(lambda: loop.commits.pending is not None or loop.work(loop.owned))
    wait_until(lambda: live.numbers_of(visit, "k") == [1])
    live.group.states.forget(visit.computation, "k")
    assert loop.commits.pending is not None
    loop.commits.pending.sent = None
    loop.commits.settle()
    live.send(visit, [Visit("k", 2)])
    until_drained(live, loop)
    assert live.numbers_of(visit, "k") == [2]


def test_an_edit_while_the_batch_is_in_the_queue_repeats_only_its_key(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(visit, [Visit(f"k{number}", number, 0.05) for number in range(4)])
    loop.look_again()
    loop.work(loop.owned)
    assert loop.owned.calls is not None and loop.owned.calls.open is not None
    wait_until(lambda: len(recorded(live.client)) >= 4)
    live.group.states.forget(plain_visit.computation, "k1")  # another computation's state, which these calls do not use
    until_drained(live, loop)
    assert begun(recorded(live.client)) == {f"k{number}": [number] for number in range(4)}
    assert live.numbers(visit) == {f"k{number}": [number] for number in range(4)}


def test_never_more_calls_than_the_concurrency(make_live: Callable[..., LiveGroup], live: LiveGroup, loop: LoopByHand) -> None:
    """Messages beyond `concurrency` stay in the queue."""
    live.send(threaded_visit, [Visit(f"k{number}", number, 0.02) for number in range(40)])
    until_drained(live, loop)
    lines, most, now = recorded(live.client), 0, 0
    for line in lines:
        now += 1 if line.startswith("begin") else -1
        most = max(most, now)
    assert 4 <= most <= 8
    assert len(live.numbers(threaded_visit)) == 40


def test_a_loop_without_room_for_calls_sleeps_until_one_ends(make_live: Callable[..., LiveGroup], live: LiveGroup) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_CONCURRENCY=2)
    with loop_by_hand(live) as loop:
        loop.begin_calls()
        live.send(replied_visit, [Visit(f"k{number}", number, 3600) for number in range(9)])
        loop.look_again()
        loop.live_until(lambda: loop.owned.calls is not None and loop.owned.calls.full is not None and loop.owned.calls.open is None)
        loop.owned.next_due = 0.0  # and a delayed message is due
        loop.live_until(lambda: idle_partitions(loop.owned_partitions.values(), loop.clock.monotonic())[1] > 0.1)
        loop.end_calls()


def test_results_and_duplicates_work_as_for_plain_computations(live: LiveGroup, loop: LoopByHand) -> None:
    names = [live.send_task(replied_visit.name, {"key": "k", "number": number}, task_id=f"id{number}") for number in (1, 2)]
    live.send_task(replied_visit.name, {"key": "k", "number": 1}, task_id="id1")
    until_drained(live, loop)
    assert [live.app.AsyncResult(name).get(timeout=60) for name in names] == [10, 20]
    assert live.numbers(replied_visit) == {"k": [1, 2]}


def test_after_a_pause_calls_end_and_no_new_ones_start(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(visit, [Visit("k", 1, 0.3), Visit("k", 2)])
    loop.look_again()
    loop.live_until(lambda: live.status()["partition.0"].running == 1)
    live.client.hset(live.names.meta("0"), "paused", 1)
    loop.owned.forget_all()
    live.send(visit, [Visit("other", 3)])
    loop.live_until(lambda: live.numbers_of(visit, "k") == [1])
    assert begun(recorded(live.client)) in ({"k": [1]}, {"k": [1, 2]})
    live.client.hdel(live.names.meta("0"), "paused")
    loop.owned.forget_all()
    until_drained(live, loop)
    assert live.numbers(visit) == {"k": [1, 2], "other": [3]}


def test_a_worker_that_learns_that_its_lease_is_lost_withdraws_its_suspicion(live: LiveGroup, loop: LoopByHand) -> None:
    """Its calls were noted, because another worker died over them, perhaps. No message has killed this one."""
    live.client.hset(live.names.meta("0"), "to_isolate", 10)
    loop.owned.forget_all()
    live.send(visit, [Visit("a", 1, 30), Visit("b", 2, 30)])
    loop.live_until(lambda: live.client.hlen(live.names.isolation("0")) == 2)
    share = loop.holdings.share
    loop.follow(replace(share, owned={partition: token for partition, token in share.owned.items() if partition != "0"}))
    loop.holdings.take_up_share()
    assert "0" not in loop.owned_partitions
    assert live.client.hgetall(live.names.isolation("0")) == {}


def test_a_partition_that_is_kept_after_all_goes_on(live: LiveGroup, loop: LoopByHand) -> None:
    """The worker that was to get it has gone, while this one waited for its calls."""
    live.send(visit, [Visit("k", 1, 0.5), Visit("k", 2), Visit("k", 3)])
    loop.look_again()
    loop.live_until(lambda: live.status()["partition.0"].running == 1)
    share = loop.holdings.share
    loop.follow(replace(share, give_up=("0",)))
    loop.holdings.take_up_share()
    assert loop.owned.calls is not None and not loop.owned.calls.may_start
    loop.follow(replace(share, give_up=()))
    loop.holdings.take_up_share()
    until_drained(live, loop)
    assert begun(recorded(live.client)) == {"k": [1, 2, 3]}


def test_a_lost_lease_cancels_the_calls_and_loses_nothing(live: LiveGroup) -> None:
    messages = [Visit(f"k{number}", number, 0.4) for number in range(5)]
    with loop_by_hand(live) as first:
        first.begin_calls()
        live.send(visit, messages)
        first.look_again()
        first.live_until(lambda: live.status()["partition.0"].running == 5)
        live.client.hset(live.names.meta("0"), "token", 99)
        first.live_until(lambda: "0" not in first.owned_partitions)
        assert first.calls is not None and first.calls.in_flight.room.counts.total() == 0
        first.end_calls()
    live.client.hdel(live.names.meta("0"), "token", "holder")
    live.client.delete(live.names.owners, live.names.workers)
    with loop_by_hand(live) as second:
        second.begin_calls()
        until_drained(live, second)
        assert second.calls is not None
        second.end_calls()
    assert live.numbers(visit) == {f"k{number}": [number] for number in range(5)}
    assert set(itertools.chain(*begun(recorded(live.client)).values())) == set(range(5))


@pytest.mark.parametrize("seconds", [0.0, 0.3], ids=["from the queue", "from the mailbox"])
def test_only_the_call_with_an_unwritable_outcome_becomes_a_dead_letter(live: LiveGroup, loop: LoopByHand, seconds: float) -> None:
    loop.store.max_bytes = 200_000
    messages = [Visit(f"k{number}", number, seconds, trick="huge" if number == 5 else "") for number in range(12)]
    live.send(visit, [*messages, Visit("k5", 12)])
    until_drained(live, loop)
    (dead,) = live.dead_letters()
    assert (dead.reason, dead.key) == ("unwritable", "k5")
    assert live.numbers(visit) == {f"k{number}": [12 if number == 5 else number] for number in range(12)}
    assert sorted(begun(recorded(live.client))) == sorted(f"k{number}" for number in range(12))
