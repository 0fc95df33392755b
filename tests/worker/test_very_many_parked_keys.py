"""A hundred thousand parked keys: a worker reads those that are due, page by page, and those of its batches. It never reads all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from celery_partitions.model.effects import ParkedKey
from celery_partitions.store.commands import park
from celery_partitions.store.parked_keys import look_up_parked, read_due
from celery_partitions.worker import batch_reader
from celery_partitions.worker.batch_reader import MAX_LOADED
from celery_partitions.worker.owned import DUE_PAGE
from tests.fundamentals.application import Attempt, Step, fail, record
from tests.fundamentals.live import LiveGroup
from tests.worker.by_hand import LoopByHand, loop_by_hand

KEYS = 100_000


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> LiveGroup:
    return make_live(PARTITIONS=1, PARTITIONS_BATCH_SECONDS=60, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_LONGEST_BACKOFF_SECONDS=1000)


def park_all(live: LiveGroup, dues: dict[str, float | None]) -> None:
    """Park keys as commits do, each with one message of `record`."""
    with live.client.pipeline(transaction=False) as pipe:
        for command in park(live.names, "0", {key: ParkedKey(due, 1, task="record") for key, due in dues.items()}):
            pipe.execute_command(*command)
        pipe.execute()


def put_mail(live: LiveGroup, *keys: str) -> None:
    """One message in the mailbox of each key."""
    for key in keys:
        live.send(record, [Step(key, 0)])
        live.client.rename(live.names.queue("0"), live.names.mailbox("0", key))


def calls_of(live: LiveGroup, command: str) -> int:
    """How often the server has run a command."""
    stats: dict[str, dict[str, int]] = live.client.info("commandstats")  # type: ignore[assignment]
    return stats.get(f"cmdstat_{command}", {}).get("calls", 0)


@pytest.fixture
def crowded(live: LiveGroup) -> Iterator[LoopByHand]:
    """A worker that has just got a partition with 100,000 parked keys. Three are due, and have a message."""
    now = live.group.now()
    dues: dict[str, float | None] = {f"later-{number}": now + 10_000 + number for number in range(KEYS)}
    dues |= {f"due-{number}": now - 10 + number for number in range(3)}
    dues["held"] = None
    park_all(live, dues)
    put_mail(live, "due-0", "due-1", "due-2", "later-7", "held")
    with loop_by_hand(live) as loop:
        yield loop


def test_a_claim_reads_a_page_and_the_keys_that_are_due_run(live: LiveGroup, crowded: LoopByHand) -> None:
    before = {command: calls_of(live, command) for command in ("hgetall", "zrangebyscore", "hmget", "llen")}
    crowded.take_turns()
    after = {command: calls_of(live, command) - count for command, count in before.items()}
    assert all(live.numbers_of(record, f"due-{number}") == [0] for number in range(3))
    assert len(crowded.owned.parked) <= DUE_PAGE
    assert (after["hgetall"], after["zrangebyscore"]) == (0, 1)
    assert after["hmget"] < 50
    assert after["llen"] < DUE_PAGE + 50
    assert live.client.zcard(live.names.parked_due("0")) == live.client.hlen(live.names.parked("0")) == KEYS + 1


def test_messages_of_a_parked_key_wait_behind_those_in_its_mailbox(live: LiveGroup, crowded: LoopByHand) -> None:
    live.send(record, [Step("later-7", 1), Step("held", 1), Step("free", 0), Step("later-7", 2)])
    crowded.look_again()
    crowded.take_turns()
    assert live.numbers_of(record, "free") == [0]
    assert live.numbers_of(record, "later-7") == live.numbers_of(record, "held") == []
    assert live.client.llen(live.names.mailbox("0", "later-7")) == 3  # type: ignore[arg-type]
    assert live.client.llen(live.names.mailbox("0", "held")) == 2  # type: ignore[arg-type]


def test_a_key_that_an_operator_retries_runs_at_once(live: LiveGroup, crowded: LoopByHand) -> None:
    crowded.take_turns()
    assert live.group.parked_keys.retry("later-7", by="a test") == "ok"
    crowded.owned.notify(crowded.owned.edit_version + 1, paused=False)
    crowded.take_turns()
    assert live.numbers_of(record, "later-7") == [0]


def test_a_key_that_fails_is_parked_and_its_later_messages_wait(live: LiveGroup, crowded: LoopByHand) -> None:
    live.send(fail, [Attempt("broken", 0, fail=True), Attempt("broken", 1)])
    crowded.look_again()
    crowded.take_turns()
    found = look_up_parked(live.client, live.names, "0", ["broken", "nobody"])
    assert list(found.parked) == ["broken"]
    assert found.mailbox_lengths == {"broken": 2}
    assert live.client.zscore(live.names.parked_due("0"), "broken") is not None


def test_more_keys_than_a_page_that_are_due_at_the_same_moment(live: LiveGroup) -> None:
    """The calls of the first page are in flight: they stay in the index until they end."""
    park_all(live, dict.fromkeys((f"key-{number:03}" for number in range(50)), 7.0))
    (found, lengths), since = read_due(live.client, live.names, "0", 0.0, (), 10)
    assert (len(found), since) == (10, 7.0)
    assert set(lengths) == set(found)
    (others, _), since = read_due(live.client, live.names, "0", since, found, 10)
    assert others
    assert not others.keys() & found.keys()
    known = {f"key-{number:03}" for number in range(50)}
    assert read_due(live.client, live.names, "0", since, known, 10) == (({}, {}), float("inf"))


def test_few_parked_keys_are_all_in_memory(live: LiveGroup) -> None:
    park_all(live, {f"key-{number}": live.group.now() + 1000 for number in range(MAX_LOADED)})
    with loop_by_hand(live) as loop:
        loop.take_turns()
        assert len(loop.owned.parked) == MAX_LOADED
        assert loop.owned.knows_all_parked


def test_a_line_of_an_unknown_task_is_found_too(make_live: Callable[..., LiveGroup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_reader, "MAX_LOADED", 0)
    live = make_live(PARTITIONS=1, PARTITIONS_DEPLOY_WAIT_SECONDS=1000)
    live.app.send_task("nobody's", queue="partition.0")
    with loop_by_hand(live) as loop:
        loop.take_turns()
        assert list(loop.owned.lines) == ["unknown task nobody's @0"]
    live.app.send_task("nobody's", queue="partition.0")
    with loop_by_hand(live) as loop:
        loop.take_turns()
        assert loop.owned.mailbox_lengths == {"unknown task nobody's @0": 2}
