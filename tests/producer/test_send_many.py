"""`send_many`: the messages that `delay` sends, in bulk, in order, in constant memory."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery
from celery.worker.request import Request
from kombu import Message

from celery_partitions import MessageError
from celery_partitions.producer.bulk import CHUNK_BYTES, CHUNK_MESSAGES
from celery_partitions.store.names import Names
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import Trade, envelopes, note, partition, queues, raws, update

QUEUES = [f"partition.{number}" for number in range(4)]


def take(app: Celery, queue: str) -> Message:
    """The oldest message of the queue, as kombu passes it to a consumer."""
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get(queue)
        assert message is not None
        message.ack()
        return message


def numbers(client: redis.Redis, queue: str) -> list[int]:
    """The numbers that were sent to `note`, oldest first."""
    return [_number(envelope) for envelope in envelopes(client, queue)]


def _number(envelope: dict[str, Any]) -> int:
    number: int = msgspec.json.decode(msgspec.convert(envelope["body"], bytes, strict=False))[0][0]["number"]
    return number


def notes(count: int, keys: int = 7) -> Iterator[dict[str, Any]]:
    return ({"key": f"k{number % keys}", "number": number} for number in range(count))


@pytest.mark.parametrize("count", [0, 1, CHUNK_MESSAGES - 1, CHUNK_MESSAGES, 2 * CHUNK_MESSAGES + 3])
def test_every_message_of_an_iterable_is_sent_and_counted(app: Celery, client: redis.Redis, count: int) -> None:
    assert note.send_many(notes(count)) == count
    assert sum(queues(client).values()) == count


def test_each_message_goes_to_its_keys_queue_in_the_order_of_the_iterable(app: Celery, client: redis.Redis) -> None:
    note.send_many(notes(3500))
    for number, queue in enumerate(QUEUES):
        assert numbers(client, queue) == [n for n in range(3500) if partition(f"k{n % 7}") == number]


def test_a_later_message_is_behind_earlier_ones_whoever_sends_it(app: Celery, client: redis.Redis) -> None:
    note.send_many(notes(2, keys=1))
    note.delay({"key": "k0", "number": 2})
    note.send_many([{"key": "k0", "number": 3}])
    assert numbers(client, f"partition.{partition('k0')}") == [0, 1, 2, 3]


@pytest.mark.parametrize("message", [Trade("AAPL", 1.5), {"symbol": "AAPL", "price": 1.5, "account": None}])
def test_kombu_reads_the_same_message_as_from_apply_async(app: Celery, client: redis.Redis, message: Any) -> None:
    queue = f"partition.{partition('AAPL')}"
    update.apply_async((message,))
    update.send_many([message])
    slow, fast = take(app, queue), take(app, queue)
    (args, kwargs, embed), found = slow.decode(), fast.decode()
    assert found[:2] == [args, kwargs]
    assert {**dict.fromkeys(embed), **found[2]} == embed
    assert (fast.content_type, fast.content_encoding) == (slow.content_type, slow.content_encoding)
    own = {"id", "root_id", "sent_at"}
    for name, value in fast.headers.items():
        assert name in own or slow.headers[name] == value, name
    #: Optional headers without a value are omitted, and so are the representations for logs.
    with_values = {name for name, value in slow.headers.items() if value not in (None, [None, None], 0, {})}
    assert with_values - fast.headers.keys() <= {"argsrepr", "kwargsrepr"}
    assert fast.headers["id"] == fast.headers["root_id"] == fast.properties["correlation_id"]
    assert uuid.UUID(fast.headers["id"]).version == uuid.UUID(fast.properties["delivery_tag"]).version == 4
    assert abs(fast.headers["sent_at"] - slow.headers["sent_at"]) < 60
    for name in ("delivery_mode", "delivery_info", "priority", "body_encoding"):
        assert fast.properties[name] == slow.properties[name], name
    assert fast.delivery_info == slow.delivery_info


def test_celerys_own_worker_makes_the_same_request_from_both(app: Celery, client: redis.Redis) -> None:
    queue = f"partition.{partition('AAPL')}"
    message = Trade("AAPL", 1.5)
    update.apply_async((message,))
    update.send_many([message])
    slow, fast = (Request(take(app, queue), app=app, task=update.task) for _ in range(2))
    for name in ("name", "type", "eta", "expires", "group", "ignore_result", "parent_id"):
        assert getattr(fast, name) == getattr(slow, name), name
    assert tuple(fast.time_limits) == tuple(slow.time_limits)
    assert fast.info()["args"] == slow.info()["args"]
    assert fast.request_dict.get("retries", 0) == slow.request_dict["retries"]
    assert (fast.id, fast.root_id) == (fast.correlation_id, fast.id)


def test_every_message_has_its_own_id_and_delivery_tag(app: Celery, client: redis.Redis) -> None:
    note.send_many(notes(2500))
    found = [envelope for queue in QUEUES for envelope in envelopes(client, queue)]
    assert len({envelope["headers"]["id"] for envelope in found}) == 2500
    assert len({envelope["properties"]["delivery_tag"] for envelope in found}) == 2500


def test_text_that_json_escapes_arrives_unchanged(app: Celery, client: redis.Redis) -> None:
    symbol = 'é日本 "\\\n\x00\x7f😀'
    update.send_many([Trade(symbol, 1.0)])
    message = take(app, f"partition.{partition(symbol)}")
    assert message.decode()[0][0]["symbol"] == symbol


def test_an_endless_iterable_is_read_at_most_one_chunk_ahead(app: Celery, client: redis.Redis) -> None:
    class Enough(Exception):
        """Ends an endless iterable."""

    ahead = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal ahead
        for number in itertools.count():
            if number % 500 == 0:
                ahead = max(ahead, number - sum(queues(client).values()))
            if number == 20 * CHUNK_MESSAGES:
                raise Enough
            yield {"key": f"k{number % 7}", "number": number}

    with pytest.raises(Enough):
        note.send_many(endless())
    assert 0 < ahead <= CHUNK_MESSAGES


def test_fewer_large_messages_are_read_ahead(app: Celery, client: redis.Redis) -> None:
    size, ahead = 100_000, 0
    sent = CHUNK_MESSAGES + 300

    def large() -> Iterator[dict[str, Any]]:
        nonlocal ahead
        for number in range(sent):
            if number > CHUNK_MESSAGES:
                ahead = max(ahead, number - sum(queues(client).values()))
            yield {"key": f"k{number % 7}", "text": "x" * size}

    assert note.send_many(large()) == sent
    assert 0 < ahead <= CHUNK_BYTES // size


@pytest.mark.parametrize("place", [0, 5, CHUNK_MESSAGES, CHUNK_MESSAGES + 5])
def test_all_messages_before_an_invalid_one_are_sent_and_none_after_it(
    app: Celery, client: redis.Redis, place: int
) -> None:
    messages = [{"symbol": f"s{number}", "price": 1.0} for number in range(place + 10)]
    messages[place]["price"] = "dear"
    with pytest.raises(MessageError, match=r"\$\.price") as caught:
        update.send_many(messages)
    assert caught.value.__notes__ == [f"send_many had sent {place:,} messages before this error"]
    found = {e["headers"]["id"] for queue in QUEUES for e in envelopes(client, queue)}
    assert len(found) == place


@pytest.mark.parametrize("place", [0, 5, CHUNK_MESSAGES + 5])
def test_all_messages_before_an_exception_of_the_iterable_are_sent(app: Celery, client: redis.Redis, place: int) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from notes(place)
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        note.send_many(broken())
    assert sum(queues(client).values()) == place


def test_a_key_prefix_of_the_apps_transport_is_kept(make_app: MakeApp, settings: Settings, client: redis.Redis) -> None:
    app = make_app(settings.redis_url, settings, broker_transport_options={"global_keyprefix": "shop:"})
    update.send_many([Trade("AAPL", 1.0)])
    update.delay(Trade("AAPL", 2.0))
    queue = f"partition.{partition('AAPL')}"
    assert queues(client) == {f"shop:{queue}": 2}
    assert [take(app, queue).decode()[0][0]["price"] for _ in range(2)] == [1.0, 2.0]
    assert client.hget(Names("partition", "shop:").group_meta, "partitions") == b"4"


def test_another_group_has_its_own_queues(make_app: MakeApp, settings: Settings, client: redis.Redis) -> None:
    make_app(settings.redis_url, Settings(redis_url=settings.redis_url, group="orders", partitions=1))
    update.send_many([Trade("AAPL", 1.0)])
    update.delay(Trade("AAPL", 2.0))
    assert queues(client) == {"orders.0": 2}
    assert len(set(raws(client, "orders.0"))) == 2


def test_a_progress_bar_is_shown_on_standard_error_only_on_request(
    app: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    note.send_many(notes(10))
    note.send_many(notes(10), progress=False)
    assert capsys.readouterr() == ("", "")
    note.send_many([{"key": "k"}] * 1500, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert note.name in shown.err and "1500/1500" in shown.err
    note.send_many(notes(1500), progress=True)
    assert "1500/?" in capsys.readouterr().err
