"""A full queue: a single message is refused; bulk sending waits for room, or reports what it did not send."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from celery_partitions import PartitionError, QueueFull, SendInterrupted
from celery_partitions.runtime.registry import installation_of
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import note, partition, queues
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

QUEUE = f"partition.{partition('k')}"


@pytest.fixture
def limited(make_app: MakeApp, settings: Settings, redis_url: str) -> Celery:
    """An app whose queues hold at most ten messages."""
    return make_app(redis_url, Settings(redis_url=redis_url, queue_max_length=10))


def notes(count: int) -> list[dict[str, object]]:
    return [{"key": "k", "number": number} for number in range(count)]


def test_a_message_to_a_full_queue_is_refused_and_the_error_says_what_to_do(
    limited: Celery, client: redis.Redis
) -> None:
    for message in notes(10):
        note.delay(message)
    for send in (
        lambda: note.delay({"key": "k", "number": 10}),
        lambda: note.apply_async([{"key": "k", "number": 10}]),
        lambda: limited.send_task(note.name, [{"key": "k", "number": 10}]),
    ):
        with pytest.raises(QueueFull, match=f"{QUEUE} holds 10 messages, and PARTITIONS_QUEUE_MAX_LENGTH is 10") as caught:
            send()
        assert (caught.value.queue, caught.value.length, caught.value.limit) == (QUEUE, 10, 10)
    assert queues(client) == {QUEUE: 10}
    other = next(f"k{number}" for number in range(100) if partition(f"k{number}") != partition("k"))
    note.delay({"key": other, "number": 0})
    client.rpop(QUEUE)
    note.delay({"key": "k", "number": 10})


def test_if_the_server_is_unreachable_the_check_raises_what_celery_raises(
    make_app: MakeApp, client: redis.Redis, redis_url: str, proxy: Proxy
) -> None:
    """A sender catches one error for an unreachable broker, whether our check or Celery's push notices it first."""
    url = proxy.url(int(redis_url.rpartition("/")[2]))
    app = make_app(url, Settings(redis_url=url, queue_max_length=10))
    note.delay(notes(1)[0])
    proxy.refuse()
    proxy.cut()
    for send in (lambda: note.delay(notes(1)[0]), lambda: app.send_task(note.name, notes(1))):
        with pytest.raises(OperationalError) as caught:
            send()
        assert isinstance(caught.value.__cause__, redis.ConnectionError)
    assert queues(client) == {QUEUE: 1}


@pytest.mark.parametrize("by_name", [False, True])
def test_so_does_the_first_check_of_a_process(make_app: MakeApp, proxy: Proxy, by_name: bool) -> None:
    proxy.refuse()
    app = make_app(proxy.url(), Settings(redis_url=proxy.url()))
    with pytest.raises(OperationalError, match=r"The address comes from redis_url \(code\)|The address comes from the app's broker_url"):
        app.send_task(note.name, notes(1)) if by_name else note.delay(notes(1)[0])
    found = installation_of(app)
    assert found is not None
    with pytest.raises(redis.ConnectionError):  # as in workers and the command line
        found.group.check()


def test_the_error_survives_a_process_boundary_as_celery_passes_it() -> None:
    error = pickle.loads(pickle.dumps(QueueFull("partition.1", 5, 4)))
    assert isinstance(error, PartitionError)
    assert (error.queue, error.length, error.limit) == ("partition.1", 5, 4)


def test_without_a_limit_the_length_is_not_read(make_app: MakeApp, client: redis.Redis, redis_url: str) -> None:
    make_app(redis_url, Settings(redis_url=redis_url))
    client.config_resetstat()
    note.send_many(notes(20))  # not `delay`: kombu itself reads the length then
    assert "cmdstat_llen" not in client.info("commandstats")


def test_bulk_sending_waits_for_room_and_never_exceeds_the_limit(limited: Celery, client: redis.Redis) -> None:
    longest, taken = 0, 0
    sending = threading.Thread(target=lambda: note.send_many(notes(35)))
    sending.start()
    wait_until(lambda: client.llen(QUEUE) == 10)
    while taken < 35:
        longest = max(longest, int(client.llen(QUEUE)))
        taken += len(client.rpop(QUEUE, 4) or ())
    sending.join(timeout=60)
    assert not sending.is_alive()
    assert longest == 10
    assert client.llen(QUEUE) == 0


def test_bulk_sending_that_must_not_wait_reports_what_was_not_sent(limited: Celery, client: redis.Redis) -> None:
    with pytest.raises(SendInterrupted) as caught:
        note.send_many(notes(25), when_full="raise")
    assert isinstance(caught.value.__cause__, QueueFull)
    assert (caught.value.sent, caught.value.unknown, caught.value.refused) == (10, [], notes(25)[10:20])
    assert client.llen(QUEUE) == 10


def test_a_connection_that_breaks_while_bulk_sending_waits(
    make_app: MakeApp, client: redis.Redis, redis_url: str, proxy: Proxy
) -> None:
    url = proxy.url(int(redis_url.rpartition("/")[2]))
    make_app(url, Settings(redis_url=url, queue_max_length=10))
    failed: list[SendInterrupted] = []

    def send() -> None:
        try:
            note.send_many(messages())
        except SendInterrupted as error:
            failed.append(error)

    def messages() -> Iterator[dict[str, object]]:
        yield from notes(15)

    sending = threading.Thread(target=send)
    sending.start()
    wait_until(lambda: client.llen(QUEUE) == 10)
    proxy.cut_before_reply(b"LLEN")
    sending.join(timeout=60)
    (error,) = failed
    assert (error.sent, error.unknown, error.refused) == (10, [], notes(15)[10:])
