"""What a computation sends is part of its commit: sent exactly once with its effects, never when it fails."""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery, chain, group
from celery.result import AsyncResult
from kombu import Connection, Exchange, Queue

from celery_partitions import Context, RetryPolicy, build_application, key_extractor, source, state_computation
from celery_partitions.model.outbox import Outbox
from celery_partitions.producer.task import ComputationTask
from celery_partitions.runtime import sent_now
from celery_partitions.runtime.registry import add_installation, remove_installation
from celery_partitions.worker.sends import join_sends
from tests.fundamentals.live import LiveGroup
from tests.support.apps import close_app
from tests.worker.by_hand import LoopByHand, loop_by_hand

AGAIN = RetryPolicy(attempts=4, backoff_seconds=0.001)


@dataclass
class Order:
    shop: str
    number: int = 0


class Orders:
    numbers: tuple[int, ...] = ()


@key_extractor
def shop_of(order: Order) -> str:
    return order.shop


#: What the computations do, set by each test.
doing: list[Callable[[Context], Any]] = []


@state_computation("tests.sends: plain", state=Orders, key=shop_of, on_error=AGAIN)
def plain(order: Order, orders: Orders, context: Context) -> None:
    orders.numbers += (order.number,)
    doing[0](context)


@state_computation("tests.sends: inner loop", state=Orders, key=shop_of, on_error=AGAIN)
def inner_loop(order: Order, orders: Orders) -> None:
    orders.numbers += (order.number,)
    doing[0](Context("", "", 0, None, 1))


@state_computation("tests.sends: limited", state=Orders, key=shop_of, on_error=AGAIN, time_limit=60)
def limited(order: Order, orders: Orders, context: Context) -> None:
    orders.numbers += (order.number,)
    doing[0](context)


@state_computation("tests.sends: coroutine", state=Orders, key=shop_of, on_error=AGAIN)
async def coroutine(order: Order, orders: Orders, context: Context) -> None:
    orders.numbers += (order.number,)
    await asyncio.sleep(0)
    sent = doing[0](context)
    if isinstance(sent, Awaitable):
        await sent


@state_computation("tests.sends: thread", state=Orders, key=shop_of, on_error=AGAIN, executor="threads")
def thread(order: Order, orders: Orders, context: Context) -> None:
    orders.numbers += (order.number,)
    doing[0](context)


@state_computation("tests.sends: stage", state=Orders, on_error=AGAIN)
def stage(order: Order, orders: Orders, context: Context) -> None:
    orders.numbers += (order.number,)
    doing[0](context)


build_application("tests.sends", source("tests.sends: orders", type=Order).key_by(shop_of).to(stage, name="tests.sends: count").to_sinks([]))

COMPUTATIONS = ["tests.sends: plain", "tests.sends: inner loop", "tests.sends: limited", "tests.sends: coroutine", "tests.sends: thread", "tests.sends: orders"]


@state_computation("tests.sends: confirm", state=Orders, key=shop_of)
def confirm(order: Order, orders: Orders) -> None: ...


@state_computation("tests.sends: ask", state=Orders, key=shop_of, reply=True)
def ask(order: Order, orders: Orders) -> int:
    return 1


def mail(*args: Any, **options: Any) -> None:
    """A plain task."""


class Sending:
    """A loop, and what it sent."""

    def __init__(self, live: LiveGroup, loop: LoopByHand) -> None:
        self.live, self.loop, self.app, self.client = live, loop, live.app, live.client

    def process(self, name: str, do: Callable[[Context], Any], *orders: Order, ids: list[str] | None = None) -> None:
        doing[:] = [do]
        for number, order in enumerate(orders or [Order("a")]):
            self.live.app.send_task(name, [{"shop": order.shop, "number": order.number}], task_id=ids[number] if ids else f"m{number}")
        self.loop.look_again()
        self.loop.live_until(lambda: not any(row.length or row.parked or row.running or row.delayed for row in self.live.group.status() if row.queue in ("partition.0", "partition")))

    def queued(self, queue: str = "celery") -> list[dict[str, Any]]:
        return [msgspec.json.decode(raw) for raw in reversed(self.client.lrange(queue, 0, -1))]

    def ids(self, queue: str = "celery") -> list[str]:
        return [message["headers"]["id"] for message in self.queued(queue)]


@pytest.fixture
def make_sending(make_live: Callable[..., LiveGroup]) -> Iterator[Callable[..., Any]]:
    @contextmanager
    def make(**env: object) -> Iterator[Sending]:
        live = make_live(PARTITIONS=1, **env)
        live.app.task(name="mail", shared=False)(mail)
        add_installation(live.installation, ComputationTask)
        join_sends(live.installation)
        try:
            with loop_by_hand(live) as loop:
                loop.begin_calls()
                yield Sending(live, loop)
                loop.end_calls()
        finally:
            remove_installation(live.installation)

    sent_now._noted.clear()
    yield make


@pytest.fixture
def sending(make_sending: Callable[..., Any]) -> Iterator[Sending]:
    with make_sending() as sending:
        yield sending


WAYS: dict[str, Callable[[Celery], Any]] = {
    "delay": lambda app: app.tasks["mail"].delay(1, to="x"),
    "apply_async": lambda app: app.tasks["mail"].apply_async((1,), {"to": "x"}),
    "send_task": lambda app: app.send_task("mail", (1,), {"to": "x"}),
    "send_task by position": lambda app: app.send_task("mail", (1,), {"to": "x"}, None, None, None),
    "a signature": lambda app: app.signature("mail", (1,), {"to": "x"}).delay(),
    "a canvas": lambda app: group([app.signature("mail", (1,), {"to": "x"})]).apply_async(),
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_a_task_is_sent_with_the_commit(sending: Sending, name: str) -> None:
    """In each kind of computation, and with each of Celery's functions."""
    early: list[int] = []

    def send(context: Context) -> None:
        for way in WAYS.values():
            way(sending.app)
        early.append(sending.client.llen("celery"))

    sending.process(name, send)
    assert early == [0]
    messages = sending.queued()
    assert [message["headers"]["task"] for message in messages] == ["mail"] * len(WAYS)
    assert {base64.b64decode(message["body"])[:18].replace(b" ", b"") for message in messages} == {b'[[1],{"to":"x"},'[:16]}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_what_fails_sends_nothing(sending: Sending, name: str) -> None:
    """The failing tries send nothing, the last one sends once, with the ids that any try gives."""
    tries: list[str] = []

    def send(context: Context) -> None:
        tries.append(sending.app.tasks["mail"].delay(len(tries)).id)
        tries.append(confirm.delay(Order("b")).id)
        if len(tries) < 6:
            raise RuntimeError("not yet")

    sending.process(name, send)
    assert tries == ["m0.1", "m0.2"] * 3
    assert sending.ids() == ["m0.1"]
    assert b"[[4]," in base64.b64decode(sending.queued()[0]["body"]).replace(b" ", b"")


def test_messages_before_a_failed_one_send_once(sending: Sending) -> None:
    """A failure applies the key's earlier messages of the batch again."""
    numbers: list[int] = []

    def send(context: Context) -> None:
        numbers.append(1)
        sending.app.tasks["mail"].delay()
        if context.message_id == "m1" and context.attempt == 1:
            raise RuntimeError("the first is applied again")

    sending.process("tests.sends: plain", send, Order("a", 1), Order("a", 2))
    assert len(numbers) == 4
    assert sorted(sending.ids()) == ["m0.1", "m1.1"]


def test_a_computation_gets_its_message_in_the_commit(sending: Sending) -> None:
    results: list[AsyncResult] = []

    def send(context: Context) -> None:
        results.append(confirm.delay(Order("b", 1)))
        results.append(ask.delay(Order("b", 2)))
        confirm.send_many([Order("b", 3), Order("b", 4)], id_of=lambda order: f"own {order.number}")
        results.append(sending.app.send_task("tests.sends: confirm", [{"shop": "b", "number": 5}]))
        assert sending.client.llen("partition.0") == 1

    pushed: list[dict[str, Any]] = []
    written = sending.loop.commits.settle

    def settle() -> None:
        written()
        pushed.extend(one for one in sending.queued("partition.0") if one not in pushed)

    sending.loop.commits.settle = settle  # type: ignore[method-assign]
    sending.process("tests.sends: plain", send)
    sent = [message for message in pushed if message["headers"]["id"] != "m0"]
    assert [message["headers"]["id"] for message in sent] == ["m0.1", "m0.2", "own 3", "own 4", "m0.5"]
    assert {message["headers"]["parent_id"] for message in sent} == {"m0"}
    assert {message["headers"]["root_id"] for message in sent} == {"m0"}
    assert [result.id for result in results] == ["m0.1", "m0.2", "m0.5"]
    assert results[1].get(timeout=10) == 1


def test_async_sending_functions_join_too(sending: Sending) -> None:
    async def send() -> None:
        await confirm.adelay(Order("b"))
        await confirm.asend_many([Order("c")])
        assert sending.client.llen("partition.0") == 1

    sending.process("tests.sends: coroutine", lambda context: send())
    assert sending.live.processed() == 3


def test_messages_are_those_that_celery_makes(sending: Sending) -> None:
    when = datetime(2027, 1, 2, tzinfo=UTC)
    arguments = (1, "é", None, 1.5, {"a": [when, Decimal("1.1")]})
    results: list[AsyncResult] = []

    def send(context: Context) -> None:
        results.append(sending.app.tasks["mail"].delay(*arguments, to="x"))

    sending.process("tests.sends: plain", send)
    sending.app.tasks["mail"].apply_async(arguments, {"to": "x"}, task_id="m0.1", root_id="m0", parent_id="m0")
    inside, theirs = sending.queued()
    assert base64.b64decode(inside.pop("body")).replace(b" ", b"") == base64.b64decode(theirs.pop("body")).replace(b" ", b"")
    for message in (inside, theirs):
        message["headers"].pop("sent_at", None)
        message["properties"].pop("delivery_tag")
        message["properties"]["delivery_info"].pop("exchange")
    assert {**inside["headers"], "origin": ""} == {**theirs["headers"], "origin": ""}
    assert inside["properties"] == theirs["properties"]
    assert results[0].ignored is False


def test_options_are_honoured(sending: Sending) -> None:
    sending.app.conf.task_routes = [*sending.app.conf.task_routes, {"routed": {"queue": "routes"}}]
    sending.app.amqp.flush_routes()

    def send(context: Context) -> None:
        sending.app.tasks["mail"].apply_async((1,), queue="mails", task_id="own")
        sending.app.tasks["mail"].apply_async((2,), countdown=60, expires=120, priority=0)
        sending.app.send_task("routed")
        chain(sending.app.signature("mail", (3,)), sending.app.signature("mail", (4,))).apply_async()
        confirm.apply_async((Order("b"),), countdown=3600)

    doing[:] = [send]
    sending.app.send_task("tests.sends: plain", [{"shop": "a"}], task_id="m0")
    sending.loop.look_again()
    sending.loop.take_turns()
    assert sending.ids("mails") == ["own"]
    late, chained = sending.queued()
    assert late["headers"]["eta"] and late["headers"]["expires"] and late["headers"]["id"] == "m0.2"
    assert b'"chain": [{' in base64.b64decode(chained["body"])
    assert sending.ids("routes") == ["m0.3"]
    sending.loop.look_again()
    sending.loop.take_turns()
    assert [row.delayed for row in sending.live.group.status() if row.queue == "partition.0"] == [1]


@pytest.mark.parametrize("name", [name for name in COMPUTATIONS if "inner" not in name])
def test_send_now_does_not_wait(sending: Sending, name: str) -> None:
    seen: list[int] = []

    def send(context: Context) -> None:
        with context.send_now():
            sending.app.tasks["mail"].delay()
            confirm.delay(Order("b"))
        sending.app.tasks["mail"].delay()
        seen.append(sending.client.llen("celery"))
        if len(seen) < 2:
            raise RuntimeError("not yet")

    sending.process(name, send)
    assert seen == [1, 2]
    assert sending.client.llen("celery") == 3


def test_what_cannot_join_is_sent_now_and_logged_once(sending: Sending, caplog: pytest.LogCaptureFixture) -> None:
    other = Celery("other", broker=sending.live.env["REDIS_URL"], set_as_current=False)
    elsewhere = str(sending.live.env["REDIS_URL"]).rpartition("/")[0] + "/9"
    sending.app.amqp.queues.add(Queue("fan", Exchange("fan", type="topic"), routing_key="fan"))

    def send(context: Context) -> None:
        other.send_task("theirs", queue="others")
        assert sending.client.llen("others") == 1 + int(context.message_id == "m1")
        with Connection(elsewhere) as connection:
            sending.app.send_task("far", connection=connection, queue="others")
        sending.app.send_task("fanned", queue="fan")

    with caplog.at_level(logging.WARNING, "celery.worker.partitions"):
        sending.process("tests.sends: plain", send, Order("a"), Order("b"))
    texts = [record.getMessage() for record in caplog.records if "at once" in record.getMessage()]
    assert len(texts) == 3
    assert "theirs at once" in texts[0] and "another Celery app" in texts[0]
    assert "far at once" in texts[1] and "another broker" in texts[1]
    assert "fanned at once" in texts[2] and "exchange 'fan'" in texts[2]
    close_app(other)
    with redis.Redis.from_url(elsewhere) as there:
        there.flushdb()  # a worker looks whether its server has other databases


def test_a_thread_of_its_own_sends_at_once(sending: Sending) -> None:
    def send(context: Context) -> None:
        own = threading.Thread(target=lambda: sending.app.tasks["mail"].delay())
        own.start()
        own.join()
        assert sending.client.llen("celery") == 1

    sending.process("tests.sends: plain", send)
    assert sending.client.llen("celery") == 1


def test_a_call_that_goes_on_after_its_message_sends_at_once(sending: Sending) -> None:
    ended = threading.Event()

    async def later() -> None:
        await asyncio.sleep(0.05)
        sending.app.tasks["mail"].delay()
        ended.set()

    kept: list[Any] = []
    sending.process("tests.sends: coroutine", lambda context: kept.append(asyncio.get_running_loop().create_task(later())))
    sending.loop.live_until(ended.is_set)
    assert sending.client.llen("celery") == 1


def test_outside_computations_nothing_changes(sending: Sending) -> None:
    result = sending.app.tasks["mail"].delay()
    assert sending.ids() == [result.id]
    assert len(result.id) == 36


def sends_leave_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("celery_partitions.worker.sends.current_outbox", lambda: None)


def failed_tries_keep_their_sends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "drop", lambda self, work: None)


@pytest.mark.parametrize("break_it", [sends_leave_before_the_commit, failed_tries_keep_their_sends])
def test_a_broken_engine_is_caught(make_sending: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, break_it: Callable[..., None]) -> None:
    break_it(monkeypatch)
    with make_sending() as sending, pytest.raises(AssertionError):
        test_messages_before_a_failed_one_send_once(sending)
