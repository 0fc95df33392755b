"""The error of an interrupted `send_many`: sent, unknown and refused together are everything taken, and each is correct."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_partitions import SendInterrupted
from celery_partitions.producer.bulk import CHUNK_MESSAGES
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import note, partition, queues
from tests.support.proxy import Proxy


def messages(count: int, taken: list[Any], mark: int = -1) -> Iterator[dict[str, Any]]:
    """Messages that are recorded when they are taken. The one numbered `mark` can trigger a fault."""
    for number in range(count):
        taken.append({"key": f"k{number % 7}", "number": number, "padding": "marked" if number == mark else ""})
        yield taken[-1]


def interrupted(count: int, taken: list[Any]) -> SendInterrupted:
    with pytest.raises(SendInterrupted) as caught:
        note.send_many(messages(count, taken))
    return caught.value


def count_in(client: redis.Redis) -> int:
    return sum(queues(client).values())


def test_cut_before_the_first_push_arrived(distant: Proxy, client: redis.Redis) -> None:
    fault = distant.cut_before_request(b"LPUSH")
    taken: list[Any] = []
    error = interrupted(CHUNK_MESSAGES + 1, taken)
    assert fault.fired == 1
    assert (error.sent, error.unknown, error.refused) == (0, taken, [])
    assert 0 < len(taken) <= CHUNK_MESSAGES  # a slow machine sends a chunk before it is full
    assert count_in(client) == 0


def test_cut_after_the_pushes_and_before_their_reply(distant: Proxy, client: redis.Redis) -> None:
    fault = distant.cut_before_reply(b"LPUSH")
    taken: list[Any] = []
    error = interrupted(CHUNK_MESSAGES + 1, taken)
    assert fault.fired == 1
    assert (error.sent, error.unknown, error.refused) == (0, taken, [])
    assert 0 < count_in(client) <= CHUNK_MESSAGES  # the server has at least the push whose reply was lost


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_cut_in_a_later_chunk_the_answered_chunks_are_known_to_be_sent(
    distant: Proxy, client: redis.Redis, lost: str
) -> None:
    cut = distant.cut_before_request if lost == "request" else distant.cut_before_reply
    first: list[Any] = []
    taken: list[Any] = []

    def cutting() -> Iterator[Any]:
        yield from messages(2 * CHUNK_MESSAGES, first)
        cut(b"LPUSH")
        yield from messages(2 * CHUNK_MESSAGES, taken)

    with pytest.raises(SendInterrupted) as caught:
        note.send_many(cutting())
    error = caught.value
    assert (error.unknown, error.refused) == ([*first, *taken][error.sent :], [])
    # A slow machine sends a chunk before it is full. The fault is set when two full chunks are taken, so at most one is unanswered.
    assert CHUNK_MESSAGES <= error.sent <= 2 * CHUNK_MESSAGES
    assert 0 < len(error.unknown) <= CHUNK_MESSAGES
    assert error.sent <= count_in(client) <= error.sent + len(error.unknown)
    assert f"{error.sent} messages are in their queues, {len(error.unknown)} may be" in str(error)


def test_with_an_unreachable_server_nothing_is_known_to_be_sent(distant: Proxy, client: redis.Redis) -> None:
    note.send_many(messages(1, []))
    distant.refuse()
    distant.cut()
    taken: list[Any] = []
    error = interrupted(10, taken)
    assert (error.sent, error.unknown + error.refused) == (0, taken)
    assert count_in(client) == 1


def test_with_an_unreachable_server_at_the_first_message_of_a_process_nothing_was_taken(distant: Proxy, client: redis.Redis) -> None:
    """Before any push, the process checks that the group has the same number of partitions."""
    distant.refuse()
    taken: list[Any] = []
    error = interrupted(10, taken)
    assert (error.sent, error.unknown, error.refused, taken) == (0, [], [], [])
    assert isinstance(error.__cause__, redis.ConnectionError)
    distant.accept()
    assert note.send_many(messages(10, [])) == 10


def test_the_error_can_be_pickled() -> None:
    """A pool of processes, or a Celery result, pickles exceptions."""
    error = SendInterrupted(redis.ConnectionError("gone"), 3, [{"key": "a"}], [{"key": "b"}, {"key": "c"}])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (SendInterrupted, str(error))
    assert (again.sent, again.unknown, again.refused) == (3, [{"key": "a"}], [{"key": "b"}, {"key": "c"}])


def test_after_an_interruption_the_same_app_sends_again(distant: Proxy, client: redis.Redis) -> None:
    distant.cut_before_request(b"LPUSH")
    error = interrupted(10, [])
    assert note.send_many(error.unknown) == 10
    assert count_in(client) == 10


def test_messages_to_a_queue_of_another_type_are_reported_and_the_rest_of_the_chunk_is_sent(
    distant: Proxy, client: redis.Redis
) -> None:
    wrong = partition("k1")
    client.set(f"partition.{wrong}", "text")
    taken: list[Any] = []
    error = interrupted(3 * CHUNK_MESSAGES, taken)
    refused = [message for message in taken if partition(message["key"]) == wrong]
    assert refused
    assert (error.unknown, error.refused) == ([], refused)
    assert error.sent == len(taken) - len(refused) == count_in(client)
    assert "WRONGTYPE" in str(error)
    client.delete(f"partition.{wrong}")
    assert note.send_many(error.refused) == len(refused)
    assert count_in(client) == len(taken)


def test_a_server_that_is_full_refuses_and_nothing_is_lost(make_app: MakeApp, server_factory: Any) -> None:
    server = server_factory(config={"maxmemory": "1", "maxmemory-policy": "noeviction"})
    with server.client() as admin:
        admin.config_set("maxmemory", 0)
        make_app(server.url(), Settings(redis_url=server.url()))
        note.send_many(messages(1, []))
        admin.config_set("maxmemory", 1)
        taken: list[Any] = []
        error = interrupted(10, taken)
        assert (error.sent, error.unknown, error.refused) == (0, [], taken)
        assert "maxmemory" in str(error)


def test_a_server_that_is_down_from_the_start(make_app: MakeApp) -> None:
    make_app("redis://127.0.0.1:1/0", Settings())
    with pytest.raises(SendInterrupted, match=r": no message was sent, and none was taken from the iterable$"):
        note.send_many([{"key": "k"}])


@pytest.mark.parametrize(("sent", "says"), [(1, "1 message is in its queue, 0 may be"), (2, "2 messages are in their queues, 0 may be")])
def test_the_text_counts(sent: int, says: str) -> None:
    assert says in str(SendInterrupted("cut", sent, [], ["refused"]))
