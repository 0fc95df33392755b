"""`ttl=`: a key that nothing uses is forgotten, once, with `on_expire`; one that is used stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from celery_partitions import (
    Context,
    DeclarationError,
    RedisList,
    key_extractor,
    source,
    state_computation,
    state_computation_multi,
)
from celery_partitions.admin.audit import Audit
from celery_partitions.admin.expiry import count_expiring, start_expiry
from celery_partitions.model import new_states as steps
from celery_partitions.model.timers import EXPIRY, TimerEntry
from celery_partitions.testing import harness
from celery_partitions.testing.in_memory import Harness
from celery_partitions.testing.virtual import CRASH_POINTS, CrashPoint

MINUTE = timedelta(minutes=1)


@dataclass
class Use:
    key: str
    fails: bool = False
    timer: float = 0.0


class Uses:
    count = 0


@key_extractor
def key_of(use: Use) -> str:
    return use.key


expired: list[tuple[str, int]] = []


def on_expire(uses: Uses, context: Context) -> None:
    expired.append((context.key, uses.count))
    note.delay(Use(context.key))
    if len(expired) <= failures[0]:
        raise RuntimeError("not yet")


failures = [0]


@state_computation("tests.expiry: note", state=Uses, key=key_of)
def note(use: Use, uses: Uses) -> None: ...


@state_computation("tests.expiry: plain", state=Uses, key=key_of, ttl=MINUTE, on_expire=on_expire)
def plain(use: Use, uses: Uses) -> None:
    uses.count += 1
    if use.fails:
        raise RuntimeError("it fails")


@state_computation("tests.expiry: context", state=Uses, key=key_of, ttl=60, on_expire=on_expire)
def with_context(use: Use, uses: Uses, context: Context) -> None:
    uses.count += 1
    if use.timer:
        context.timers.set("bell", after=use.timer)


@with_context.on_timer("bell")
def bell(timer: Any, uses: Uses) -> None:
    uses.count += 100


@state_computation("tests.expiry: coroutine", state=Uses, key=key_of, ttl=60)
async def coroutine(use: Use, uses: Uses) -> None:
    uses.count += 1


@state_computation("tests.expiry: without", state=Uses, key=key_of)
def without(use: Use, uses: Uses) -> None: ...


@pytest.fixture(autouse=True)
def _fresh() -> None:
    expired.clear()
    failures[0] = 0


def keys(h: Harness, computation: Any) -> list[str]:
    return sorted(h.states(computation))


@pytest.mark.parametrize("computation", [plain, with_context, coroutine])
def test_a_key_that_is_not_used_is_forgotten(computation: Any) -> None:
    with harness(computation, twice=True) as h:
        h.send(Use("a"))
        h.advance(seconds=30)
        h.send(Use("a"))
        h.send(Use("b"))
        h.advance(seconds=59)
        assert keys(h, computation) == ["a", "b"]
        h.advance(seconds=5)
        assert keys(h, computation) == []
        assert not h.dead_letters


def test_on_expire_is_called_once_and_sends() -> None:
    with harness(plain) as h:
        h.send(Use("a"))
        h.send(Use("a"))
        h.advance(minutes=5)
        assert expired == [("a", 2)]
        assert [one.name for one in h.sent] == ["tests.expiry: note"]
        h.send(Use("a"))
        assert h.state(plain).count == 1


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_crash_at_any_point_forgets_once(point: CrashPoint) -> None:
    with harness(plain) as h:
        h.send(Use("a"))
        h.advance(seconds=59)
        h.crash(point)
        h.advance(minutes=1)
        assert keys(h, plain) == []
        assert len(h.sent) == 1


def test_on_expire_that_fails_is_tried_again() -> None:
    failures[0] = 2
    with harness(plain) as h:
        h.send(Use("a"))
        h.advance(minutes=2)
        assert expired == [("a", 1)] * 3
        assert keys(h, plain) == []
        assert len(h.sent) == 1


def test_a_message_before_the_firing_keeps_the_key() -> None:
    """Both are on the queue, in one batch."""
    with harness(plain) as h:
        h.send(Use("a"))
        h._keyspace.now += 61
        h.send_many([Use("b"), Use("a")])
        h.advance(seconds=59)
        assert keys(h, plain) == ["a", "b"]
        assert expired == []
        h.advance(seconds=5)
        assert keys(h, plain) == []


def test_a_message_that_fails_does_not_keep_the_key() -> None:
    with harness(plain) as h:
        h.send(Use("a"))
        h.advance(seconds=30)
        h.send(Use("b", fails=True))
        h.advance(seconds=32)
        assert keys(h, plain) == []


def test_timers_are_deleted_with_the_key_and_their_handlers_use_it() -> None:
    with harness(with_context) as h:
        h.send(Use("a", timer=3600))
        h.advance(minutes=2)
        assert keys(h, with_context) == []
        h.advance(hours=2)
        assert keys(h, with_context) == []  # the alarm that is left writes nothing
        h.send(Use("a", timer=45))
        h.advance(seconds=70)
        assert h.state(with_context, "a").count == 101
        h.advance(minutes=2)
        assert keys(h, with_context) == []


def test_in_a_pipeline_what_on_expire_returns_goes_on() -> None:
    def total(uses: Uses) -> str:
        return f"{uses.count} uses"

    @state_computation("tests.expiry: stage", state=Uses, ttl=60, on_expire=total)
    def stage(use: Use, uses: Uses) -> None:
        uses.count += 1

    sink = RedisList("totals", encoder=lambda text: text.encode())
    with harness(source("tests.expiry: uses", type=Use).key_by(key_of).to(stage).to_sink(sink)) as h:
        h.send(Use("a"))
        h.send(Use("a"))
        h.advance(minutes=2)
        assert h.outputs(sink) == [b"2 uses"]
        assert keys(h, "tests.expiry: stage") == []


def test_a_stage_that_returns_a_list_expires_too() -> None:
    @state_computation_multi("tests.expiry: list", state=Uses, ttl=60, on_expire=lambda uses: ["gone", str(uses.count)])
    def stage(use: Use, uses: Uses) -> list[str]:
        uses.count += 1
        return []

    sink = RedisList("lists", encoder=lambda text: text.encode())
    with harness(source("tests.expiry: list uses", type=Use).key_by(key_of).to(stage).to_sink(sink)) as h:
        h.send(Use("a"))
        h.advance(minutes=2)
        assert h.outputs(sink) == [b"gone", b"1"]
        assert keys(h, "tests.expiry: list") == []


def test_keys_older_than_their_ttl_are_counted_and_started() -> None:
    with harness(plain, partitions=4) as h:
        codec, names = h.installation.group.codec, h.installation.group.names
        for number in range(20):
            key = f"k{number}"
            partition = h.installation.group.topology.partition_of(key)
            h.installation.group.client.hset(names.states(str(partition), plain.name), key, codec.dump(plain.computation, key, Uses()))
        h.send(Use("new"))
        states = h.installation.group.states
        found = count_expiring(states, plain.computation, h.now)
        assert (found.keys, found.without, found.in_a_day, found.due) == (21, 20, 1, 0)
        h.advance(minutes=2)
        assert len(keys(h, plain)) == 20
        assert start_expiry(states, Audit(h.installation.group.client, names), plain.computation, found, by="me") == 20
        h.advance(seconds=59)
        assert count_expiring(states, plain.computation, h.now).in_a_day == 20
        h.advance(seconds=5)
        assert keys(h, plain) == []


def test_little_is_written_for_a_key_that_is_used_often() -> None:
    """Its expiry moves by 1 % at least."""
    with harness(plain) as h:
        h.send(Use("a"))
        before = due_of(h, "a")
        h.advance(milliseconds=500)
        h.send(Use("a"))
        assert due_of(h, "a") == before
        h.advance(seconds=1)
        h.send(Use("a"))
        assert due_of(h, "a").due - before.due == 1500
        assert due_of(h, "a").alarm == before.alarm


def due_of(h: Harness, key: str) -> TimerEntry:
    group = h.installation.group
    stored: Any = group.client.hget(group.names.states(str(group.topology.partition_of(key)), plain.name), key)
    timers = group.codec.timers(stored)
    assert timers is not None
    return timers[EXPIRY]


def test_wrong_declarations_are_refused() -> None:
    with pytest.raises(DeclarationError, match="on_expire= needs a ttl="):
        state_computation("tests.expiry: x", state=Uses, key=key_of, on_expire=on_expire)(lambda use, uses: None)
    with pytest.raises(DeclarationError, match="ttl must be"):
        state_computation("tests.expiry: x", state=Uses, key=key_of, ttl=0)(lambda use, uses: None)
    with pytest.raises(DeclarationError, match="on_expire must take"):
        state_computation("tests.expiry: x", state=Uses, key=key_of, ttl=1, on_expire=lambda: None)(lambda use, uses: None)
    with pytest.raises(DeclarationError, match="a name of its own"):
        plain.on_timer("expiry")(bell)


def uses_do_not_move_the_expiry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "touch", lambda computation, key, slot, now: None if slot.timers else touch(computation, key, slot, now))


touch = steps.touch


def a_firing_does_not_look_for_messages_before_it(patch: pytest.MonkeyPatch) -> None:
    from celery_partitions.model.caller import Caller

    fire = Caller.fire

    def blind(self: Any, item: Any, owner: Any, attempt: int) -> Any:
        touched = self.touched
        self.touched = {one: {} for one in touched}
        try:
            return (yield from fire(self, item, owner, attempt))
        finally:
            for one, slots in self.touched.items():
                touched.setdefault(one, {}).update(slots)
            self.touched = touched

    patch.setattr(Caller, "fire", blind)


@pytest.mark.parametrize(
    ("break_it", "test"),
    [
        (uses_do_not_move_the_expiry, lambda: test_a_key_that_is_not_used_is_forgotten(plain)),
        (a_firing_does_not_look_for_messages_before_it, test_a_message_before_the_firing_keeps_the_key),
    ],
)
def test_a_broken_engine_is_caught(monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], test: Callable[[], None]) -> None:
    test()
    expired.clear()
    break_it(monkeypatch)
    with pytest.raises(AssertionError):
        test()
