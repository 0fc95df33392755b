"""A thread goes on when its partition is lost. When the partition comes back to the process, no other call of the key begins before it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from celery_partitions.store.leases import balance, release
from celery_partitions.worker.abandoned_calls import AbandonedCalls
from celery_partitions.worker.calls import CallThread
from tests.fundamentals.live import LiveGroup
from tests.support.applications import waiting
from tests.support.applications.waiting import Visit, begun, overlaps, plain_visit, recorded, threaded_visit, visit
from tests.worker.by_hand import LoopByHand, loop_by_hand
from tests.worker.test_calls_in_flight import until_drained


@pytest.fixture
def live(make_live: Callable[..., LiveGroup], monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveGroup]:
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_BACKOFF_SECONDS=0.01)
    waiting.unblocked.clear()
    with waiting.recording_to(live.settings.redis_url, monkeypatch):
        yield live
        waiting.unblocked.set()


@pytest.fixture
def loop(live: LiveGroup) -> Iterator[LoopByHand]:
    with loop_by_hand(live, calls=True) as loop:
        yield loop
        waiting.unblocked.set()


def lose_and_regain(live: LiveGroup, loop: LoopByHand) -> None:
    """The partition leaves the process, and comes back under a new token."""
    share, token = loop.holdings.share, loop.owned.lease.token
    release(loop.client, live.names, "by-hand/1", {"0": token})
    loop.follow(replace(share, owned={partition: one for partition, one in share.owned.items() if partition != "0"}))
    loop.holdings.take_up_share()
    assert "0" not in loop.owned_partitions
    loop.follow(balance(loop.client, live.names, "by-hand/1", lease_seconds=60, partitions=1))
    loop.holdings.take_up_share()
    assert loop.owned.lease.token != token


def block(live: LiveGroup, loop: LoopByHand) -> None:
    """A call of the key `k` in a thread does not end."""
    live.send(threaded_visit, [Visit("k", 1, trick="blocks")])
    loop.look_again()
    loop.live_until(lambda: live.status()["partition.0"].running == 1 and recorded(live.client) == ["begin k 1"])


def lose_twice_while_others_go_on(live: LiveGroup, loop: LoopByHand, follower: Any) -> None:
    for round in (2, 3):
        lose_and_regain(live, loop)
        live.send(follower, [Visit("k", round)])
        live.send(visit, [Visit(f"other{round}", round)])
        live.send(plain_visit, [Visit(f"plain{round}", round)])
        loop.look_again()
        loop.live_until(lambda: len(live.numbers(visit)) + len(live.numbers(plain_visit)) >= 2 * round - 2)  # noqa: B023 - called in the same round


@pytest.mark.parametrize("follower", [threaded_visit, visit, plain_visit], ids=lambda one: one.name)
def test_no_call_of_the_key_begins_before_an_abandoned_thread_has_ended(
    live: LiveGroup, loop: LoopByHand, follower: Any, caplog: pytest.LogCaptureFixture
) -> None:
    block(live, loop)
    lose_twice_while_others_go_on(live, loop, follower)
    assert begun(recorded(live.client))["k"] == [1]
    (parked,) = live.group.parked_keys.of_key("k")
    assert (parked.why, parked.waiting) == ("running", 3)
    waiting.unblocked.set()
    until_drained(live, loop)
    lines = recorded(live.client)
    assert overlaps(lines) == []
    assert begun(lines)["k"] == [1, 1, 2, 3], "the call of the lost partition is repeated, then the others come"
    assert live.numbers_of(threaded_visit, "k") == ([1, 2, 3] if follower is threaded_visit else [1])


def test_a_message_that_comes_first_after_the_loss_waits_too(live: LiveGroup, loop: LoopByHand) -> None:
    """The key is not parked: the abandoned call was for a message of another worker's commit, or an operator took it away."""
    block(live, loop)
    live.client.delete(live.names.mailbox("0", "k"), live.names.parked("0"))
    lose_and_regain(live, loop)
    live.send(plain_visit, [Visit("k", 2)])
    live.send(visit, [Visit("k", 3)])
    live.send(plain_visit, [Visit("other", 4)])
    loop.look_again()
    loop.live_until(lambda: live.numbers_of(plain_visit, "other") == [4] and live.status()["partition.0"].length == 0)
    assert begun(recorded(live.client)) == {"k": [1], "other": [4]}
    waiting.unblocked.set()
    until_drained(live, loop)
    assert begun(recorded(live.client))["k"] == [1, 2, 3]
    assert overlaps(recorded(live.client)) == []


@pytest.mark.parametrize("broken", ["the loop", "the call thread"])
def test_an_engine_that_forgets_abandoned_calls_is_caught(
    live: LiveGroup, loop: LoopByHand, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Each of the two ways that a key's calls could overlap."""
    monkeypatch.setattr(AbandonedCalls, "add", lambda self, run: None)
    if (
        broken == "the call thread"
    ):  # a run that waits for an abandoned one is cancelled, and no longer stands before the next one
        cancel = CallThread._cancel

        def at_once(self: CallThread, runs: list[Any]) -> None:
            for run in runs:
                run.is_calling = True
            cancel(self, runs)

        monkeypatch.setattr(CallThread, "_cancel", at_once)
    block(live, loop)
    lose_twice_while_others_go_on(live, loop, threaded_visit if broken == "the call thread" else plain_visit)
    if broken == "the loop":
        live.client.delete(live.names.mailbox("0", "k"), live.names.parked("0"))
        lose_and_regain(live, loop)
        live.send(plain_visit, [Visit("k", 4)])
        loop.look_again()
    loop.live_until(lambda: overlaps(recorded(live.client)))
