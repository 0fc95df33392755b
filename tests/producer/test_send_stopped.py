"""`send_many` stopped by an exception of the iterable or by Ctrl-C: every message taken is sent or reported."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from celery_partitions import SendInterrupted
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import note, partition, queues
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

QUEUE = f"partition.{partition('k')}"


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts background processes with SIGINT ignored, and Python keeps that. This restores the handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def notes(count: int) -> list[dict[str, Any]]:
    return [{"key": "k", "number": number} for number in range(count)]


def control_c() -> None:
    signal.raise_signal(signal.SIGINT)


def then(do: Callable[[], object], count: int = 3) -> Iterator[dict[str, Any]]:
    """An iterable that yields some messages and then calls `do` instead of yielding more."""
    yield from notes(count)
    do()


def stopped_by(error: type[BaseException], messages: Any, **options: Any) -> BaseException:
    with pytest.raises(error) as caught:
        note.send_many(messages, **options)
    return caught.value


def test_control_c_while_the_iterable_is_quiet(app: Celery, client: redis.Redis) -> None:
    error = stopped_by(KeyboardInterrupt, then(control_c))
    assert queues(client) == {QUEUE: 3}
    assert error.__cause__ is None
    assert error.__notes__ == ["send_many had sent 3 messages before this error"]


@pytest.mark.parametrize("kind", [LookupError, SystemExit, GeneratorExit])
def test_an_exception_of_the_iterable_propagates_unchanged(app: Celery, client: redis.Redis, kind: type[BaseException]) -> None:
    own = kind("the end")

    def end() -> None:
        raise own

    assert stopped_by(kind, then(end)) is own
    assert queues(client) == {QUEUE: 3}


def test_an_interruption_of_another_send_many_in_the_iterable_propagates_unchanged(app: Celery, client: redis.Redis) -> None:
    own = SendInterrupted("elsewhere", 0, [], [])

    def end() -> None:
        raise own

    assert stopped_by(SendInterrupted, then(end)) is own
    assert queues(client) == {QUEUE: 3}


def test_control_c_while_a_message_is_made_reports_the_message_taken_and_not_sent(app: Celery, client: redis.Redis) -> None:
    def id_of(message: dict[str, Any]) -> str:
        if message["number"] == 2:
            control_c()
        return f"id-{message['number']}"

    cause = stopped_by(KeyboardInterrupt, notes(5), id_of=id_of).__cause__
    assert isinstance(cause, SendInterrupted)
    assert (cause.sent, cause.unknown, cause.refused) == (2, [], notes(3)[2:])
    assert queues(client) == {QUEUE: 2}


def when(true: Callable[[], bool]) -> threading.Thread:
    """Send Ctrl-C to this process once this is true."""

    def run() -> None:
        wait_until(true)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("after_an_error", [False, True])
def test_control_c_while_it_waits_for_room(
    make_app: MakeApp, client: redis.Redis, redis_url: str, after_an_error: bool
) -> None:
    make_app(redis_url, Settings(redis_url=redis_url, queue_max_length=10))
    note.send_many(notes(10))

    def fail() -> None:
        raise LookupError

    client.config_resetstat()
    thread = when(lambda: client.info("commandstats").get("cmdstat_llen", {"calls": 0})["calls"] > 0)
    cause = stopped_by(KeyboardInterrupt, then(fail) if after_an_error else notes(3)).__cause__
    thread.join()
    assert isinstance(cause, SendInterrupted)
    assert (cause.sent, cause.unknown, cause.refused) == (0, [], notes(3))
    assert queues(client) == {QUEUE: 10}


def test_control_c_while_a_push_is_in_flight(app: Celery, client: redis.Redis) -> None:
    note.send_many(notes(1))
    client.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
    try:
        thread = when(lambda: client.info("clients")["blocked_clients"] == 1)
        cause = stopped_by(KeyboardInterrupt, notes(3)).__cause__
        thread.join()
    finally:
        client.execute_command("CLIENT", "UNPAUSE")
    assert isinstance(cause, SendInterrupted)
    assert (cause.sent, cause.unknown, cause.refused) == (0, notes(3), [])
    assert "KeyboardInterrupt: 0 messages are in their queues, 3 may be" in str(cause)


def test_control_c_with_an_unreachable_server(distant: Proxy, client: redis.Redis) -> None:
    def gone() -> None:
        distant.refuse()
        distant.cut()
        control_c()

    cause = stopped_by(KeyboardInterrupt, then(gone)).__cause__
    assert isinstance(cause, SendInterrupted)
    assert (cause.sent, cause.unknown + cause.refused) == (0, notes(3))
    assert queues(client) == {}


def test_an_exception_of_the_iterable_with_an_unreachable_server(distant: Proxy, client: redis.Redis) -> None:
    """Unsent messages are more important than why the iterable ended, so that exception is only a note."""

    def gone() -> None:
        distant.refuse()
        distant.cut()
        raise LookupError("no more")

    error = stopped_by(SendInterrupted, then(gone))
    assert isinstance(error, SendInterrupted)
    assert error.unknown + error.refused == notes(3)
    assert error.__notes__ == ["This happened after another error: LookupError: no more"]
