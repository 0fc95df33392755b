"""A worker with a newer state class: older states are migrated when a message needs them, and written by its commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.store.record import split
from celery_partitions.store.worker_code import WorkerCode
from celery_partitions.worker.lease_keeper import LeaseKeeper
from tests.fundamentals.live import LiveGroup
from tests.model.classes_in_time import Code, code_in_time
from tests.worker.by_hand import LoopByHand, loop_by_hand

OLD = "class State:\n    price = 0.0\n"
NEW = """@state(version=2)
class State:
    cents = 0

@migrates(State, to_version=2)
def to_cents(old):
    return {"cents": round(old["price"] * 100)}
"""


@pytest.fixture
def code() -> Iterator[Code]:
    with code_in_time() as made:
        yield made


def deploy(live: LiveGroup, code: Code, source: str, function: Callable[..., Any]) -> None:
    """The next worker of this group has this state class and this computation `count`."""
    state = code.at(source).state
    assert state is not None
    live.installation.computations = {"count": declare(function, name="count", state=state.cls, key=lambda message: message[0])}


def deliver(loop: LoopByHand, live: LiveGroup, *messages: tuple[str, float]) -> None:
    for message in messages:
        live.app.send_task("count", args=[list(message)], queue="partition.0")
    loop.look_again()
    loop.take_turns()


def set_price(message: Any, state: Any) -> None:
    state.price = message[1]


def add_cents(message: Any, state: Any) -> None:
    state.cents += message[1]


def headers(live: LiveGroup) -> dict[str, dict[str, Any]]:
    rows = live.client.hgetall(live.names.states("0", "count"))
    return {key.decode(): split(stored).header for key, stored in rows.items()}  # type: ignore[union-attr]


def test_the_next_commit_writes_what_was_migrated(make_live: Callable[..., LiveGroup], code: Code) -> None:
    live = make_live(PARTITIONS=1)
    deploy(live, code, OLD, set_price)
    with loop_by_hand(live) as loop:
        deliver(loop, live, ("touched", 1.5), ("untouched", 2.5))
    deploy(live, code, NEW, add_cents)
    with loop_by_hand(live) as loop:
        deliver(loop, live, ("touched", 3), ("new", 4))
    assert headers(live) == {"touched": {"v": 2}, "untouched": {}, "new": {"v": 2}}
    states = live.group.states.get_many(live.installation.computations["count"], ["touched", "untouched", "new"])
    assert {key: one.cents for key, one in states.items()} == {"touched": 153, "untouched": 250, "new": 4}


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_a_failing_migration_fails_its_message_by_the_policy(make_live: Callable[..., LiveGroup], code: Code, is_async: bool) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_EXHAUSTED="dead_letter", PARTITIONS_DEPLOY_WAIT_SECONDS=1000)
    deploy(live, code, OLD, set_price)
    with loop_by_hand(live) as loop:
        deliver(loop, live, ("bad", 1.5), ("good", 2.5))
        stored = live.client.hget(live.names.states("0", "count"), "bad")

    async def add_cents_later(message: Any, state: Any) -> None:
        add_cents(message, state)

    deploy(live, code, NEW.replace("return", "if old['price'] < 2: raise ValueError('too cheap')\n    return"), add_cents_later if is_async else add_cents)
    with loop_by_hand(live) as loop:
        if is_async:
            loop.begin_calls()
            for message in (["bad", 1], ["good", 2], ["other", 3]):
                live.app.send_task("count", args=[message], queue="partition.0")
            loop.look_again()
            loop.live_until(lambda: len(headers(live)) == 3 and live.dead_letters())
            loop.end_calls()
        else:
            deliver(loop, live, ("bad", 1), ("good", 2), ("other", 3))
    (dead,) = live.dead_letters()
    assert (dead.reason, dead.key) == ("computation-failed", "bad")
    assert "the migration of State to version 2 raised ValueError: too cheap" in dead.error
    assert "in to_cents" in dead.trace, "the traceback shows the migration"
    assert live.client.hget(live.names.states("0", "count"), "bad") == stored, "the state stays as it was"
    assert headers(live) == {"bad": {}, "good": {"v": 2}, "other": {"v": 2}}


def test_a_state_of_newer_code_waits_for_it(make_live: Callable[..., LiveGroup], code: Code) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_DEPLOY_WAIT_SECONDS=1000)
    deploy(live, code, NEW, add_cents)
    newer = live.installation.computations["count"]
    assert newer.state is not None
    live.client.hset(live.names.states("0", "count"), "key", live.group.codec.dump(newer, "key", newer.state.new()))
    deploy(live, code, OLD, set_price)
    with loop_by_hand(live) as loop:
        deliver(loop, live, ("key", 5.0), ("other", 2.0))
        (parked,) = live.group.parked_keys.all()
        assert (parked.key, parked.reason) == ("key", "unreadable-state")
        assert "Newer code wrote it" in parked.error
    deploy(live, code, NEW, add_cents)
    with loop_by_hand(live) as loop:
        loop.take_turns()
    assert live.group.states.get(live.installation.computations["count"], "key").cents == 5  # type: ignore[union-attr]


def test_a_worker_with_older_code_loses_and_never_gets_the_partition(make_live: Callable[..., LiveGroup], code: Code, caplog: pytest.LogCaptureFixture) -> None:
    """An operator with newer code sets a state while an older worker holds the partition."""
    live = make_live(PARTITIONS=1)
    deploy(live, code, OLD, set_price)
    with loop_by_hand(live) as loop:
        deliver(loop, live, ("key", 1.0))
        older = LeaseKeeper(
            live.settings, live.names, live.group.topology, loop.worker, (), loop.follow, client=live.client, code=WorkerCode.of(live.installation.computations.values())
        )
        deploy(live, code, NEW, add_cents)
        newer = live.installation.computations["count"]
        seen = live.group.state_editor.see(newer, "key")
        assert live.group.state_editor.set(seen, seen.state, by="me") == "ok"
        live.app.send_task("count", args=[["other", 2.0]], queue="partition.0")
        loop.look_again()
        loop.take_turns()
        assert loop.owned_partitions.keys() == {"ingress"}, "its commit was refused"
        assert set(older.balance().owned) == set(older.balance().owned) == {"ingress"}
        assert "this worker may not have partition 0: its states of 'count' have version 2" in caplog.text
        assert caplog.text.count("may not have partition") == 1, "it is logged once"
        (row, _) = live.group.status()
        assert (row.owner, row.refused_to, row.length) == (None, ("by-hand",), 1)
    with loop_by_hand(live) as loop:
        loop.take_turns()
    assert headers(live) == {"key": {"v": 2}, "other": {"v": 2}}
