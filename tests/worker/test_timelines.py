"""What happened to a key, as commits wrote it (PARTITIONS_TIMELINE_BYTES), operators did it, and a watcher saw it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from celery_partitions import Context, RetryPolicy, key_extractor, state_computation
from celery_partitions.admin.timeline import FieldChange, KeyWatch, Row
from celery_partitions.store.timelines import MAX_TIMELINE_BYTES, read_timeline
from tests.fundamentals.live import LiveGroup
from tests.worker.by_hand import LoopByHand, loop_by_hand


@dataclass
class Step:
    key: str
    what: str = ""


class Walked:
    steps: tuple[str, ...] = ()
    text = ""


@key_extractor
def key_of(step: Step) -> str:
    return step.key


@state_computation("tests.timelines: end", state=Walked, key=key_of)
def end(step: Step, walked: Walked) -> None:
    walked.steps += (step.what,)


@state_computation("tests.timelines: walk", state=Walked, key=key_of, on_error=RetryPolicy(0, exhausted="hold"))
def walk(step: Step, walked: Walked, context: Context) -> None:
    if step.what == "fall":
        raise ValueError("fell")
    if step.what == "send":
        end.delay(Step("other", "sent"))
    if step.what == "wait":
        context.timers.set("bell", after=3600)
    walked.text = step.what[3:] if step.what.startswith("is:") else walked.text
    walked.steps += (step.what[:10],)


@walk.on_timer("bell")
def bell(timer: object, walked: Walked) -> None: ...


@state_computation("tests.timelines: fly", state=Walked, key=key_of, on_error=RetryPolicy(0, exhausted="dead_letter"))
async def fly(step: Step, walked: Walked) -> None:
    await asyncio.sleep(0)
    if step.what == "fall":
        raise ValueError("fell")
    walked.steps += (step.what,)


Made = Callable[..., LoopByHand]


@contextmanager
def looping(live: LiveGroup) -> Iterator[LoopByHand]:
    with loop_by_hand(live, calls=True, tasks=True) as loop:
        yield loop


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> LiveGroup:
    return make_live(PARTITIONS=1, PARTITIONS_TIMELINE_BYTES=1_000_000)


@pytest.fixture
def loop(live: LiveGroup) -> Iterator[LoopByHand]:
    with looping(live) as loop:
        yield loop


def run(live: LiveGroup, loop: LoopByHand, *whats: str, key: str = "k") -> None:
    live.send(walk, [Step(key, what) for what in whats])
    loop.look_again()
    loop.take_turns()


def watch(live: LiveGroup, key: str = "k") -> KeyWatch:
    return live.installation.watch_key(key)


def told(rows: list[Row]) -> list[str]:
    return [sentence for row in rows for sentence in row.what]


def test_a_commit_writes_what_it_changes_with_the_states(live: LiveGroup, loop: LoopByHand) -> None:
    run(live, loop, "a", "b")
    run(live, loop, "send")
    run(live, loop, "wait", "fall", "c", "d")
    fallen, sent, first = watch(live).past()
    assert (first.who, first.commit_number, len(first.what)) == ("by-hand", 1, 2)
    assert first.states[0].fields == [FieldChange("steps", None, ["a", "b"]), FieldChange("text", None, "")]
    assert "after it was sent; sent tests.timelines: end " in sent.what[0] and sent.what[0].endswith("to partition 0")
    assert sent.states[0].fields == [FieldChange("steps", ["a", "b"], ["a", "b", "send"])]
    applied, failed, waits, behind = fallen.what
    assert applied.startswith("applied tests.timelines: walk ")
    assert failed.endswith("failed, attempt 1: ValueError: fell")
    assert waits.startswith("waits (no retry left), until you act, attempt 2: tests.timelines: walk ")
    assert behind == "3 messages went to its mailbox, to be applied in order"
    assert [field.field for field in fallen.states[0].fields] == ["steps", "timer bell"]
    [other] = watch(live, "other").past()
    assert other.commit_number is not None and sent.commit_number is not None and other.commit_number > sent.commit_number


def test_an_operator_acts_and_the_message_is_applied_later(live: LiveGroup, loop: LoopByHand) -> None:
    run(live, loop, "fall", "a")
    follow = watch(live)
    assert "waits (no retry left), attempt 2; 2 messages in its mailbox: ValueError: fell" in told(follow.look())
    assert follow.look() == []
    live.group.parked_keys.skip("k", by="ann")
    state = Walked()
    state.steps = ("set",)
    live.group.state_editor.set(live.group.state_editor.see(walk.computation, "k"), state, by="ann")
    skipped, edited = follow.look()
    assert (skipped.who, edited.who, edited.what) == ("ann", "ann", ["state set"])
    assert FieldChange("steps", None, ["set"]) in edited.states[0].fields
    loop.look_again()
    loop.take_turns()
    [applied] = follow.look()
    assert applied.states[0].fields == [FieldChange("steps", ["set"], ["set", "a"])]


def test_calls_in_flight_are_in_it(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(fly, [Step("k", "a"), Step("k", "fall"), Step("k", "b")])
    loop.look_again()
    loop.live_until(lambda: (state := live.group.states.get(fly.computation, "k")) is not None and state.steps == ("a", "b"))
    text = "\n".join(told(watch(live).past()))
    assert text.count("applied tests.timelines: fly ") == 2
    assert "failed, attempt 1: ValueError: fell" in text and "became a dead letter: computation-failed: ValueError: fell" in text
    changes = [field for row in watch(live).past() for one in row.states for field in one.fields if field.field == "steps"]
    assert (changes[0].after, changes[-1].before) == (["a", "b"], None)


def test_a_state_that_is_deleted_or_forgotten(live: LiveGroup, loop: LoopByHand) -> None:
    run(live, loop, "a")
    live.group.state_editor.delete(live.group.state_editor.see(walk.computation, "k"), by="ann")
    assert next(row.what for row in watch(live).past()) == ["state delete"]
    live.group.states.forget(walk.computation, "k")
    assert read_timeline(live.client, live.names, "0", "k") == []
    run(live, loop, "b")
    assert live.client.hget(live.names.meta("0"), "timeline_bytes") == str(sum(map(len, live.client.hvals(live.names.timelines("0"))))).encode()  # type: ignore[arg-type]


def test_timelines_are_bounded_by_key_and_by_partition(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_TIMELINE_BYTES=100_000)
    with looping(live) as loop:
        run(live, loop, "a", key="old")
        run(live, loop, "fall", key="stuck")
        for number in range(30):
            run(live, loop, "is:" + str(number % 10) * 600, key="hot")
        assert 5 < len(read_timeline(live.client, live.names, "0", "hot")) < 30
        assert watch(live, "old").past() != []
        run(live, loop, "is:" + "x" * 10_000, key="large")
        assert "too long to be kept" in watch(live, "large").past()[0].states[0].note
        for number in range(100):
            run(live, loop, "is:" + "x" * 1000, key=f"k{number}")
        assert watch(live, "old").past() == []
        assert any("fell" in what for what in told(watch(live, "stuck").past())), "busy keys push each other out before a key that waits"
    kept = live.client.hgetall(live.names.timelines("0"))
    sizes = list(map(len, kept.values()))  # type: ignore[union-attr]
    assert max(sizes) <= MAX_TIMELINE_BYTES and sum(sizes) <= 100_000
    assert set(live.client.zrange(live.names.timelines_order("0"), 0, -1)) == set(kept)  # type: ignore[arg-type]
    assert 80_000_000 < live.client.pttl(live.names.timelines("0")) <= 86_400_000


def test_what_is_older_is_deleted(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_TIMELINE_BYTES=100_000, PARTITIONS_TIMELINE_SECONDS=0.5)
    with looping(live) as loop:
        run(live, loop, "a", key="old")
        run(live, loop, "fall", key="stuck")
        run(live, loop, "a", key="young")
        stuck = live.client.zscore(live.names.timelines_order("0"), "stuck")
        live.client.zadd(live.names.timelines_order("0"), {"old": 1, "stuck": float(str(stuck)) - 1_000})
        run(live, loop, "b", key="young")
    assert live.client.hkeys(live.names.timelines("0")) in ([b"young"], [])


def test_a_key_that_continues_is_pushed_out_as_others(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_TIMELINE_BYTES=20_000)
    with looping(live) as loop:
        run(live, loop, "fall", "a", key="stuck")
        live.group.parked_keys.skip("stuck", by="ann")
        loop.look_again()
        loop.take_turns()
        for number in range(20):
            run(live, loop, "is:" + "x" * 2000, key=f"k{number}")
        assert b"stuck" not in live.client.hkeys(live.names.timelines("0"))


@pytest.mark.parametrize("name", ["timelines", "timelines:order"])
def test_a_key_of_the_wrong_type_does_not_prevent_commits(live: LiveGroup, loop: LoopByHand, name: str) -> None:
    live.client.set(f"{{partition.0}}:{name}", "text")
    run(live, loop, "a")
    state = live.group.states.get(walk.computation, "k")
    assert state is not None and state.steps == ("a",)
    assert "applied" not in "".join(told(watch(live).past()))


def test_without_it_nothing_is_written_and_a_watcher_sees_what_changed(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1)
    with looping(live) as loop:
        follow = watch(live)
        assert told(follow.look()) == ["nothing of this key is parked"]
        run(live, loop, "a", "fall", "b")
        assert not live.client.exists(live.names.timelines("0"), live.names.timelines_order("0"))
        [row] = follow.look()
        assert row.what == ["waits (no retry left), attempt 2; 2 messages in its mailbox: ValueError: fell"]
        assert row.states[0].fields == [FieldChange("steps", None, ["a"]), FieldChange("text", None, "")]
        live.group.parked_keys.skip("k", by="ann")
        follow.look()
        loop.look_again()
        loop.take_turns()
        assert follow.look()[0].states[0].fields == [FieldChange("steps", ["a"], ["a", "b"])]
        assert follow.look() == []
