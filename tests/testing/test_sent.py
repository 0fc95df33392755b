"""What computations send while the test kit runs them: it can be asserted, and no server is reached."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from celery_partitions import KeyExtractionError, MessageError, install, key_extractor, state_computation
from celery_partitions.runtime.registry import installation_of, remove_installation
from celery_partitions.testing import Sent, apply, harness


@dataclass
class Order:
    shop: str
    what: str = ""


class Seen:
    orders = 0


@key_extractor
def shop_of(order: Order) -> str:
    if not order.shop:
        raise ValueError("an order without a shop")
    return order.shop


def mail(*args: Any, **options: Any) -> None:
    """A plain task."""


#: What the computation under test does, set by each test.
doing: list[Callable[[], Any]] = []


@state_computation("tests.sent: confirm", state=Seen, key=shop_of)
def confirm(order: Order, seen: Seen) -> None:
    seen.orders += 1


@state_computation("tests.sent: take order", state=Seen, key=shop_of)
def take_order(order: Order, seen: Seen) -> None:
    seen.orders += 1
    doing[0]()


@pytest.fixture
def app() -> Iterator[Celery]:
    """A user's app with partitions, whose broker and result backend are a server that must get no connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        app = Celery("users", broker=url, backend=url, set_as_current=False)
        install(app)
        app.task(name="mail", shared=False)(mail)
        try:
            yield app
            assert not select.select([server], [], [], 0)[0], "the test kit connected to the server"
        finally:
            installation = installation_of(app)
            assert installation is not None
            remove_installation(installation)


def in_harness() -> list[Sent]:
    with harness(take_order) as h:
        h.send(Order("a"))
        assert not h.parked, h.parked["a"].error
        assert h.state(take_order).orders == 1
        return h.sent


def in_apply() -> list[Sent]:
    applied = apply(take_order, [Order("a")])
    assert applied.failures == []
    return applied.sent


KITS = [in_harness, in_apply]
SENDING: dict[str, tuple[Callable[[Celery], Any], list[str]]] = {
    "delay": (lambda app: confirm.delay(Order("b")), ["tests.sent: confirm"]),
    "apply_async": (lambda app: confirm.apply_async((Order("b"),), countdown=9), ["tests.sent: confirm"]),
    "send_many": (lambda app: confirm.send_many([Order("b"), Order("c")]), ["tests.sent: confirm"] * 2),
    "send_task": (lambda app: app.send_task("tests.sent: confirm", [{"shop": "b"}]), ["tests.sent: confirm"]),
    "the app's task": (lambda app: app.tasks["tests.sent: confirm"].delay(Order("b")), ["tests.sent: confirm"]),
    "a plain task": (lambda app: app.tasks["mail"].delay(1, to="x"), ["mail"]),
    "a signature": (lambda app: confirm.s(Order("b")).apply_async(), ["tests.sent: confirm"]),
    "a group": (lambda app: group(app.tasks["mail"].s(1), confirm.s(Order("b"))).apply_async(), ["mail", "tests.sent: confirm"]),
    "a chain": (lambda app: chain(app.tasks["mail"].s(1), app.tasks["mail"].s(2)).apply_async(), ["mail"]),
    "a chord": (lambda app: chord([app.tasks["mail"].s(1), app.tasks["mail"].s(2)])(app.tasks["mail"].s()), ["mail", "mail"]),
}


@pytest.mark.parametrize("kit", KITS)
@pytest.mark.parametrize("way", SENDING)
def test_whatever_a_computation_sends_is_captured(app: Celery, kit: Callable[[], list[Sent]], way: str) -> None:
    sending, names = SENDING[way]
    doing[:] = [lambda: sending(app)]
    assert [one.name for one in kit()] == names


@pytest.mark.parametrize("kit", KITS)
def test_what_was_sent_is_as_it_would_arrive(app: Celery, kit: Callable[[], list[Sent]]) -> None:
    def send() -> None:
        result = confirm.apply_async(({"shop": "b", "what": "tea"},), countdown=9, task_id="my own")
        assert result.id == "my own"
        app.tasks["mail"].apply_async((1,), {"to": "x"}, queue="mails")
        confirm.send_many([Order("c")], id_of=lambda order: "of " + order.shop)

    doing[:] = [send]
    first, second, third = kit()
    assert (first.message, first.key, first.id, first.options) == (Order("b", "tea"), "b", "my own", {"countdown": 9})
    assert (second.args, second.kwargs, second.key, second.options["queue"]) == ((1,), {"to": "x"}, None, "mails")
    assert (third.message, third.id) == (Order("c"), "of c")


@pytest.mark.parametrize("kit", KITS)
def test_an_invalid_message_raises_as_in_a_worker(app: Celery, kit: Callable[[], list[Sent]]) -> None:
    def send() -> None:
        with pytest.raises(MessageError, match="shop"):
            confirm.delay({"what": "tea"})
        with pytest.raises(MessageError, match="shop"):
            app.send_task("tests.sent: confirm", [{"what": "tea"}])
        with pytest.raises(KeyExtractionError):
            confirm.delay(Order(""))

    doing[:] = [send]
    assert kit() == []


@pytest.mark.parametrize("kit", KITS)
def test_states_are_read_from_the_kit(app: Celery, kit: Callable[[], list[Sent]]) -> None:
    def read() -> None:
        assert confirm.state("b") is None
        assert list(confirm.keys()) == []
        assert confirm.states(["a", "b"]) == {}

    doing[:] = [read]
    kit()


def test_a_computation_reads_the_states_of_the_harness(app: Celery) -> None:
    found: list[Any] = []
    with harness(take_order) as h:
        doing[:] = [lambda: found.append(take_order.state("a"))]
        h.send(Order("a"))
        h.send(Order("b"))
    assert [None if one is None else one.orders for one in found] == [None, 1]


def test_an_eager_app_works_too(app: Celery) -> None:
    app.conf.task_always_eager = True
    doing[:] = [lambda: confirm.delay(Order("b"))]
    assert [one.key for one in in_harness()] == ["b"]


def test_outside_the_kit_everything_is_sent_again(app: Celery) -> None:
    doing[:] = [lambda: None]
    before = Celery.send_task, Celery.backend
    in_harness()
    in_apply()
    assert (Celery.send_task, Celery.backend) == before
