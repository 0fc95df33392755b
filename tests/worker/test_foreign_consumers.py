"""A stock Celery worker that consumes a partition's queue is noticed: the partition's worker logs it, and the doctor names the culprit.

Anything else that removes messages from a queue is noticed too. What partition workers do is never mistaken for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import redis

from celery_partitions.admin.doctor import examine
from celery_partitions.admin.queue_consumers import ask_for_consumers
from celery_partitions.worker.foreign_consumers import LOG_SECONDS
from celery_partitions.worker.measurer import Measurer
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until
from tests.worker.by_hand import LoopByHand, loop_by_hand


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> LiveGroup:
    return make_live(PARTITIONS=1)


@pytest.fixture
def loop(live: LiveGroup) -> Iterator[LoopByHand]:
    with loop_by_hand(live) as loop:
        loop.reports.measurer = Measurer(loop.client, loop.names, {}, "by-hand")
        loop.foreign_consumers.clock = Clock()
        loop.take_turns()
        yield loop


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def seen(loop: LoopByHand) -> int:
    """How often the loop saw a removal, by its measurements."""
    measurer = loop.reports.measurer
    assert measurer is not None
    return sum(one.removals for one in measurer.fresh.values())


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]


def listen(loop: LoopByHand) -> None:
    """Do what the loop does while nothing is ready."""
    loop.listen([loop.owned], 0.0)


def wait_listening(loop: LoopByHand) -> None:
    """Wait until the loop knows that the queue is empty and will be notified of the next message."""

    def is_listening() -> bool:
        listen(loop)
        tracked = loop.waiting._tracked
        return any("0" in server._empty for server in tracked.values())

    wait_until(is_listening)


def another_database(live: LiveGroup) -> str:
    server, _, number = live.settings.redis_url.rpartition("/")
    return f"{server}/{(int(number) + 1) % 16}"


def take_one(live: LiveGroup, loop: LoopByHand) -> None:
    """A message arrives, something else removes it, and the loop looks for it."""
    wait_listening(loop)
    live.send(record, [Step("key", 0)])
    live.client.rpop(live.names.queue("0"))

    def is_notified() -> bool:
        listen(loop)
        return loop.owned.must_peek

    wait_until(is_notified)
    loop.take_turns()


def test_messages_taken_from_a_queue_that_the_worker_has_read(live: LiveGroup, loop: LoopByHand, caplog: pytest.LogCaptureFixture) -> None:
    live.send(record, [Step("key", number) for number in range(5)])
    loop.look_again()
    assert loop.peek(loop.owned)
    live.client.rpop(live.names.queue("0"))
    loop.take_turns()
    assert seen(loop) == 1
    (text,) = errors(caplog)
    assert "something other than this worker removes messages from partition.0 (noticed: 1)" in text
    assert live.numbers_of(record, "key") == [1, 2, 3, 4]


def test_messages_taken_before_the_worker_could_read_them(live: LiveGroup, loop: LoopByHand, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        take_one(live, loop)
    assert not errors(caplog)
    take_one(live, loop)
    assert len(errors(caplog)) == 1 and seen(loop) == 1


def test_it_is_logged_once_a_minute(live: LiveGroup, loop: LoopByHand, caplog: pytest.LogCaptureFixture) -> None:
    clock = loop.foreign_consumers.clock
    assert isinstance(clock, Clock)
    for now in (0.0, 1.0, LOG_SECONDS - 1, LOG_SECONDS + 1):
        clock.now = now
        live.send(record, [Step("key", 0), Step("key", 1)])
        loop.look_again()
        loop.peek(loop.owned)
        live.client.rpop(live.names.queue("0"))
        loop.take_turns()
    assert [text.partition("(")[2].partition(")")[0] for text in errors(caplog)] == ["noticed: 1", "noticed: 3"]


def test_the_workers_own_commits_are_not_mistaken_for_it(live: LiveGroup, loop: LoopByHand, caplog: pytest.LogCaptureFixture) -> None:
    """The server notifies the loop of a message that it has already read for another reason."""
    for _ in range(5):
        wait_listening(loop)
        live.send(record, [Step("key", 0)])
        loop.look_again()
        loop.take_turns()
        wait_listening(loop)
        assert loop.owned.must_peek
        loop.take_turns()
    assert (seen(loop), errors(caplog)) == (0, [])


def test_emptying_another_database_is_not_mistaken_for_it(live: LiveGroup, loop: LoopByHand, caplog: pytest.LogCaptureFixture) -> None:
    """The server then notifies that every queue has changed."""
    with redis.Redis.from_url(another_database(live)) as other:
        for _ in range(5):
            wait_listening(loop)
            other.flushdb()

            def is_notified() -> bool:
                return all(not server._empty for server in loop.waiting._tracked.values()) or loop.owned.must_peek or listen(loop)  # type: ignore[func-returns-value]

            wait_until(is_notified)
            loop.take_turns()
    assert (seen(loop), errors(caplog)) == (0, [])


def test_a_queue_of_the_same_name_in_another_database_is_not_mistaken_for_it(
    live: LiveGroup, loop: LoopByHand, caplog: pytest.LogCaptureFixture
) -> None:
    """The server notifies of a key's changes in every database. There, another project's worker empties its own queue."""
    with redis.Redis.from_url(another_database(live)) as other:
        other.set("its state", 1)
        for _ in range(5):
            wait_listening(loop)
            other.lpush(live.names.queue("0"), "a message")
            other.rpop(live.names.queue("0"))

            def is_notified() -> bool:
                listen(loop)
                return loop.owned.must_peek

            wait_until(is_notified)
            loop.take_turns()
        other.delete("its state")
    assert (seen(loop), errors(caplog)) == (0, [])


def test_a_stock_worker_is_named(live: LiveGroup) -> None:
    worker = live.start_workers(1)[0]
    stock = live.start_worker("-Q", "partition.0", "-P", "solo", "-n", "stock@here", module="tests.worker.stock", INSTALLED=0).wait_ready()

    def is_noticed() -> bool:
        live.send(record, [Step("key", 0)])
        return "something other than this worker removes messages from partition.0" in worker.log()

    wait_until(is_noticed, 60)
    named = (
        "bad",
        "not only partition workers consume the partitions' queues: stock@here (partition.0). That breaks the order of their "
        "messages: stop it, or add install(app) to its app",
    )
    wait_until(lambda: what_the_doctor_says(live) == named)  # it waits a second for the workers' answers
    stock.terminate()
    stock.wait()
    wait_until(lambda: "removed messages from partition.0" in what_the_doctor_says(live)[1])  # measurements are written once a second


def what_the_doctor_says(live: LiveGroup) -> tuple[str, str]:
    checks = examine(live.settings, live.client, live.names, partial(ask_for_consumers, live.app))
    (found,) = [check for check in checks if check.subject == "queues"]
    return found.verdict, found.text
