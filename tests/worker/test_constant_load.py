"""One partition always has messages. A worker must still do everything for the others, although it is never idle."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from celery_partitions.admin.pause import pause, resume
from celery_partitions.model.keys import partition_of
from tests.fundamentals.application import Attempt, Nap, Step, fail, record, sleep
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

PARTITIONS = 4
#: The busy partition's messages: together they take longer than a test may.
SECONDS_EACH, BACKLOG = 0.005, 40_000


def key_in(partition: int, salt: str = "") -> str:
    """A key of that partition."""
    return next(key for n in itertools.count() if partition_of(key := f"key{salt}-{n}", PARTITIONS) == partition)


class Busy:
    """A group with one worker, whose partition 0 is never empty."""

    def __init__(self, live: LiveGroup, worker: WorkerProcess) -> None:
        self.live, self.worker = live, worker
        live.send(sleep, (Nap(key_in(0), number, SECONDS_EACH) for number in range(BACKLOG)))
        self.at = self.live.names.queue("0")
        wait_until(lambda: self.length() < BACKLOG, PATIENCE_SECONDS)

    def length(self) -> int:
        return self.live.client.llen(self.at)  # type: ignore[return-value]

    def wait(self, true: Callable[[], object], message: str) -> None:
        """Wait until this is true, and check that partition 0 was busy all the time."""
        wait_until(true, PATIENCE_SECONDS, message=message)
        assert self.length() > 0


@pytest.fixture
def busy(make_live: Callable[..., LiveGroup]) -> Iterator[Busy]:
    live = make_live(PARTITIONS=PARTITIONS, PARTITIONS_LEASE_SECONDS=3, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    (worker,) = live.start_workers(1)
    yield Busy(live, worker)


def test_messages_of_idle_partitions_and_of_the_ingress(busy: Busy) -> None:
    live = busy.live
    before = live.status()[live.names.queue("0")].processed
    for turn in range(5):
        for partition in range(1, PARTITIONS):
            live.send(record, [Step(key_in(partition), turn)])
        # A producer without the key extractor puts it into the ingress.
        live.app.send_task("record", args=[{"key": key_in(1, "by-ingress"), "number": turn}], queue="partition")
        keys = [*(key_in(partition) for partition in range(1, PARTITIONS)), key_in(1, "by-ingress")]
        for key in keys:
            busy.wait(lambda: live.numbers_of(record, key)[-1:] == [turn], f"{key} was not applied")  # noqa: B023
    assert live.status()[live.names.queue("0")].processed > before  # the busy partition does not starve either


def test_a_delayed_message_of_an_idle_partition(busy: Busy) -> None:
    key = key_in(2)
    busy.live.send_task("record", {"key": key, "number": 1}, eta=datetime.now(UTC) + timedelta(seconds=1))
    busy.wait(lambda: busy.live.numbers_of(record, key) == [1], "the delayed message was not applied")


def test_retries_of_an_idle_partition(busy: Busy) -> None:
    busy.live.send(fail, [Attempt(key_in(3), 1, fail=True), Attempt(key_in(3), 2)])
    busy.wait(lambda: busy.live.numbers_of(fail, key_in(3)) == [2], "the retries did not end")


def test_the_cut_connection_of_an_idle_partition(busy: Busy) -> None:
    """The loop notices it, and waits for messages on another connection."""
    client, live = busy.live.client, busy.live
    live.send(record, [Step(key_in(1), 0)])
    busy.wait(lambda: live.numbers_of(record, key_in(1)) == [0], "the first message was not applied")
    for row in client.client_list():
        if row["cmd"] in ("blmove", "evalsha", "eval", "blpop", "subscribe") and row["id"] != str(client.client_id()):
            client.client_kill_filter(_id=row["id"])
    live.send(record, [Step(key_in(1), 1)])
    busy.wait(lambda: live.numbers_of(record, key_in(1)) == [0, 1], "the next message was not applied")


def test_a_revocation(busy: Busy) -> None:
    """It reaches the busy worker, and the next message is not held up by it."""
    live, key = busy.live, key_in(1)
    wait_until(lambda: live.app.control.ping(timeout=1, limit=1), PATIENCE_SECONDS)
    revoked = str(uuid4())
    (answer,) = live.app.control.revoke(revoked, reply=True, timeout=60, limit=1)
    assert "ok" in next(iter(answer.values()))
    live.send_task("record", {"key": key, "number": 0}, task_id=revoked)
    live.send(record, [Step(key, 1)])
    busy.wait(lambda: live.numbers_of(record, key), "the next message was not applied")
    assert live.numbers_of(record, key) == [1]


def test_a_second_worker_gets_its_share(busy: Busy) -> None:
    busy.live.start_workers(1)
    assert busy.length() > 0


def test_an_operator_pauses_and_resumes_an_idle_partition(busy: Busy) -> None:
    live, key = busy.live, key_in(1)
    pause(live.client, live.names, ["1"], by="a test")
    live.send(record, [Step(key, 0)])
    live.send(record, [Step(key_in(2), 0)])
    busy.wait(lambda: live.numbers_of(record, key_in(2)) == [0], "the other partition waits too")
    assert live.numbers_of(record, key) == []
    resume(live.client, live.names, ["1"], by="a test")
    busy.wait(lambda: live.numbers_of(record, key) == [0], "the resumed partition waits")


def test_events_of_an_idle_partition_reach_a_monitor(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=PARTITIONS, PARTITIONS_EVENTS_PER_SECOND=1000)
    worker = live.start_worker("-E").wait_ready()
    live.wait_owned(by=1)
    busy = Busy(live, worker)
    seen: list[str] = []
    with live.app.connection() as connection:
        receiver = live.app.events.Receiver(connection, handlers={"task-succeeded": lambda event: seen.append(event["uuid"])})
        for _ in receiver.itercapture(limit=None, timeout=PATIENCE_SECONDS, wakeup=False):
            if seen:
                break
            live.send(record, [Step(key_in(1), 0)])
    assert busy.length() > 0


def test_slow_plain_tasks_are_logged_once_and_other_partitions_keep_their_share(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=PARTITIONS)
    worker = live.start_worker().wait_ready()
    for _ in range(30):
        live.app.send_task("slow plain task", args=[1.1], queue=live.names.queue("0"))
    wait_until(lambda: "Send it to a separate queue" in worker.log(), PATIENCE_SECONDS)
    for turn in range(3):
        live.send(record, [Step(key_in(1), turn)])
        wait_until(lambda: live.numbers_of(record, key_in(1))[-1:] == [turn], PATIENCE_SECONDS)  # noqa: B023
    assert live.client.llen(live.names.queue("0")) > 0
    assert worker.log().count("Send it to a separate queue") == 1
