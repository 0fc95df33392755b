"""Task events: grouped into few messages, complete within the budget, and a sample beyond it."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from celery import Celery

from celery_partitions.worker.reports import FLUSH_SECONDS, Reports
from tests.fundamentals.application import Attempt, Step, fail, record
from tests.fundamentals.live import LiveGroup
from tests.support.applications import latin
from tests.support.wait import wait_until

Make = Callable[..., LiveGroup]


class Monitor:
    """The messages published on Celery's event exchange, each with its events."""

    def __init__(self, channel: redis.client.PubSub) -> None:
        self._channel = channel
        self.messages: list[list[dict[str, Any]]] = []

    def events(self, kind: str) -> list[dict[str, Any]]:
        while (message := self._channel.get_message()) is not None:
            content = json.loads(message["data"])
            body = json.loads(b64decode(content["body"]))
            self.messages.append(body if isinstance(body, list) else [body])
        return [event for message in self.messages for event in message if event["type"] == kind]


@contextmanager
def monitor(live: LiveGroup) -> Iterator[Monitor]:
    with live.client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.psubscribe("/0.celeryev*")
        yield Monitor(channel)


def test_within_the_budget_every_task_has_all_events(live: LiveGroup) -> None:
    worker = live.start_workers(1)[0]
    with monitor(live) as seen:
        ids = [live.send_task("record", {"key": "key", "number": number}) for number in range(5)]
        wait_until(lambda: len(seen.events("task-succeeded")) == 5)
        for kind in ("task-received", "task-started", "task-succeeded"):
            assert [event["uuid"] for event in seen.events(kind)] == ids
        (node,) = {event["hostname"] for event in seen.events("task-received")}
        assert node in live.owners().values()
        assert {event["name"] for event in seen.events("task-received")} == {"record"}
        assert all(0 <= event["runtime"] < 10 for event in seen.events("task-succeeded"))
    assert worker.running


def test_events_have_a_messages_arguments_from_any_producer(live: LiveGroup) -> None:
    live.start_workers(1)
    with monitor(live) as seen:
        live.send(record, [Step("bulk", 1)])
        live.app.send_task("record", kwargs={"step": {"key": "named", "number": 1}})
        live.send_task("record", {"key": "client", "number": 1})
        received = wait_until(lambda: len(found := seen.events("task-received")) == 3 and found)
    arguments = {(event["args"], event["kwargs"]) for event in received}
    assert arguments == {
        ('key=bulk [{"key":"bulk","number":1}]', "{}"),
        ("key=named ()", '{"step":{"key":"named","number":1}}'),
        ("key=client ({'key': 'client', 'number': 1},)", "{}"),
    }


def test_a_key_that_is_not_utf_8_is_escaped_for_monitors(live: LiveGroup) -> None:
    live.start_worker(module=latin.__name__).wait_ready()
    with monitor(live) as seen:
        live.send(latin.record_latin, [Step("caf\xe9", 1)])
        (event,) = wait_until(lambda: seen.events("task-received"))
    assert event["args"] == 'key=caf\\xe9 [{"key":"café","number":1}]'


def test_a_failure_event_has_the_traceback(make_live: Make) -> None:
    live = make_live(PARTITIONS_RETRY_ATTEMPTS=0)
    live.start_workers(1)
    with monitor(live) as seen:
        live.send(fail, [Attempt("key", 1, fail=True)])
        (event,) = wait_until(lambda: seen.events("task-failed"))
        assert event["exception"] == "ValueError: 1 fails on purpose"
        assert "raise ValueError" in event["traceback"]


def test_beyond_the_budget_a_sample_is_sent_in_few_messages(make_live: Make) -> None:
    """The bucket holds the budget of one second and is refilled once per second. A burst of less than a second causes
    few more events than that."""
    live = make_live(PARTITIONS_EVENTS_PER_SECOND=20)
    live.start_workers(1)
    with monitor(live) as seen:
        live.send(record, [Step(f"key-{number % 20}", number) for number in range(5000)])
        live.wait_drained()
        last = live.send_task("record", {"key": "key-0", "number": 5000}, countdown=2)  # by then the bucket has been refilled
        wait_until(lambda: any(event["uuid"] == last for event in seen.events("task-succeeded")))
        sampled = len(seen.events("task-succeeded"))
        grouped = [message for message in seen.messages if any("uuid" in event for event in message)]
    assert 1 < sampled <= 250
    assert len(grouped) < sampled


def test_without_events_none_are_sent(live: LiveGroup) -> None:
    live.start_worker("--without-heartbeat").wait_ready()
    live.app.control.disable_events(reply=True, timeout=60, limit=1)
    with monitor(live) as seen:
        live.send(record, [Step("key", 1)])
        wait_until(lambda: live.numbers_of(record, "key") == [1])
        live.app.control.ping(timeout=60, limit=1)
        assert seen.events("task-succeeded") == []


def test_a_server_without_connections_left_is_asked_once_for_all_waiting_events() -> None:
    """The loop waits for each attempt, and all partitions wait for the loop."""
    attempts = 0
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            nonlocal attempts
            with suppress(OSError):  # closed: the test is over
                while True:
                    server.accept()[0].close()
                    attempts += 1

        refusing = threading.Thread(target=refuse)
        refusing.start()
        app = Celery("outside", broker=f"redis://127.0.0.1:{server.getsockname()[1]}/0", set_as_current=False)
        reports = Reports(app, "node", 50, lambda: True, ())
        for number in range(3):
            reports.dispatcher.send("task-sent", uuid=str(number))
            reports._flushed_at -= FLUSH_SECONDS
            reports.flush_if_due()
        reports.dispatcher.close()
        server.shutdown(socket.SHUT_RDWR)
    refusing.join()
    assert attempts == 1
