"""Calls in flight follow the rules of plain computations: pipelines, links, delays, expiry, time limits, commits and exports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import chord

from celery_partitions import RetryPolicy, build_application, source, state_computation
from celery_partitions.admin.exporter import Exporter
from celery_partitions.producer.task import ComputationTask
from celery_partitions.runtime.registry import add_installation, remove_installation
from celery_partitions.worker.partition_state import ImpossibleEvent, State
from tests.fundamentals.live import LiveGroup
from tests.worker.by_hand import LoopByHand


@dataclass
class Order:
    customer: str
    number: int = 0
    seconds: float = 0.0


@dataclass
class Orders:
    numbers: list[int] = field(default_factory=list)


def customer(order: Order) -> str:
    return order.customer


#: What calls recorded, by test.
noted: list[Any] = []
#: Reads the numbers that are committed for a key of `strict`.
committed: list[Callable[[str], list[int]]] = []
KEEP = RetryPolicy(attempts=1, exhausted="dead_letter")


@state_computation("tests.rules: take", state=Orders, key=customer, reply=True, on_error=KEEP)
async def take(order: Order, state: Orders) -> int:
    noted.append(order.number)
    await asyncio.sleep(order.seconds)
    state.numbers.append(order.number)
    return order.number


@state_computation("tests.rules: limited", state=Orders, key=customer, time_limit=0.05, on_error=KEEP)
async def limited(order: Order, state: Orders) -> None:
    state.numbers.append(order.number)
    await asyncio.sleep(order.seconds)


@state_computation("tests.rules: strict", state=Orders, key=customer, strict=True)
async def strict(order: Order, state: Orders) -> None:
    noted.append(await asyncio.to_thread(committed[0], order.customer))
    state.numbers.append(order.number)


@state_computation("tests.rules: linked", state=Orders, key=lambda number: "linked")
def linked(number: int, state: Orders) -> None:
    state.numbers.append(number)


@state_computation("tests.rules: total of", state=Orders, key=lambda numbers: "linked")
def total_of(numbers: list[int], state: Orders) -> None:
    state.numbers.append(sum(numbers))


@state_computation("tests.rules: ask", state=Orders)
async def ask(order: Order, state: Orders) -> Order:
    await asyncio.sleep(0.01)
    state.numbers.append(order.number)
    return order


@state_computation("tests.rules: double", state=Orders)
def double(order: Order, state: Orders) -> Order:
    state.numbers.append(order.number * 2)
    return order


@state_computation("tests.rules: total", state=Orders)
async def total(order: Order, state: Orders) -> None:
    await asyncio.sleep(0)
    state.numbers.append(order.number)


orders = source("tests.rules: orders", type=Order)
build_application("tests.rules", orders.key_by(customer).to(ask).to(double).key_by(lambda order: "all").to(total).to_sinks([]))


#: Options of the fixture `loop`.
LOOP = {"calls": True}


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> Iterator[LiveGroup]:
    live = make_live(PARTITIONS=1)
    add_installation(live.installation, ComputationTask)
    noted.clear()
    yield live
    remove_installation(live.installation)


def drain(live: LiveGroup, loop: LoopByHand) -> None:
    loop.look_again()
    loop.live_until(lambda: not any(row.length or row.parked or row.running or row.delayed for row in live.group.status()))


def wait_running(live: LiveGroup, loop: LoopByHand, count: int) -> None:
    loop.look_again()
    loop.live_until(lambda: live.status()["partition.0"].running == count)


def send(live: LiveGroup, name: str, order: Order, **options: Any) -> str:
    return live.send_task(name, {"customer": order.customer, "number": order.number, "seconds": order.seconds}, **options)


def test_a_pipeline_with_stages_that_wait_keeps_the_order_of_each_key(live: LiveGroup, loop: LoopByHand) -> None:
    """The plain stage runs in the coroutine of the stage before. The next hop gets each key's outputs in order."""
    for number in range(12):
        send(live, orders.name, Order(f"c{number % 3}", number))
    drain(live, loop)
    wanted = {f"c{key}": [number for number in range(12) if number % 3 == key] for key in range(3)}
    assert live.numbers(ask) == wanted
    assert live.numbers(double) == {key: [2 * number for number in numbers] for key, numbers in wanted.items()}
    (found,) = live.numbers(total).values()
    assert [[number for number in found if number % 3 == key] for key in range(3)] == list(wanted.values())


def test_a_link_follows_a_call_that_waits(live: LiveGroup, loop: LoopByHand) -> None:
    name = send(live, take.name, Order("c", 7, 0.05), link=live.app.signature(linked.name))
    drain(live, loop)
    assert live.app.AsyncResult(name).get(timeout=60) == 7
    assert live.numbers(linked) == {"linked": [7]}


def test_a_chord_of_calls_that_wait_starts_its_body_once(live: LiveGroup, loop: LoopByHand) -> None:
    header = [live.app.signature(take.name, ({"customer": f"c{number % 2}", "number": number, "seconds": 0.05},)) for number in range(4)]
    chord(header, live.app.signature(total_of.name), app=live.app).apply_async()
    drain(live, loop)
    assert live.numbers(total_of) == {"linked": [6]}
    assert live.numbers(take) == {"c0": [0, 2], "c1": [1, 3]}


def test_a_delayed_message_is_called_when_it_is_due(live: LiveGroup, loop: LoopByHand) -> None:
    send(live, take.name, Order("c", 1), countdown=0.5)
    send(live, take.name, Order("c", 2))
    drain(live, loop)
    assert live.numbers(take) == {"c": [2, 1]}


def test_a_message_that_expires_behind_a_call_is_not_called(live: LiveGroup, loop: LoopByHand) -> None:
    send(live, take.name, Order("c", 1, 1.5))
    send(live, take.name, Order("c", 2), expires=1.0)
    send(live, take.name, Order("c", 3))
    drain(live, loop)
    assert live.numbers(take) == {"c": [1, 3]} and noted == [1, 3]


def test_a_call_over_its_time_limit_fails_and_the_next_one_begins_with_the_state_before(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(limited, [Order("c", 1), Order("c", 2, 60), Order("c", 3)])
    drain(live, loop)
    assert live.numbers(limited) == {"c": [1, 3]}
    (dead_letter,) = live.dead_letters()
    assert "TimeLimitExceeded" in dead_letter.error


def test_with_strict_a_call_begins_after_the_commit_of_the_one_before(live: LiveGroup, loop: LoopByHand) -> None:
    committed[:] = [lambda key: live.numbers_of(strict, key)]
    live.send(strict, [Order("c", number) for number in range(4)])
    drain(live, loop)
    assert noted == [[], [0], [0, 1], [0, 1, 2]]


def test_an_export_while_calls_run_has_their_messages(live: LiveGroup, loop: LoopByHand, tmp_path: Path) -> None:
    live.send(take, [Order(f"c{number}", number, 1.0) for number in range(5)])
    wait_running(live, loop, 5)
    path = tmp_path / "export"
    Exporter(live.client, live.names, 1, by="a test").write(path, pause_all=False)
    drain(live, loop)
    assert live.numbers(take) == {f"c{number}": [number] for number in range(5)}
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds.count("parked") == kinds.count("mail") == 5


def test_two_commits_of_a_partition_at_once_are_impossible(live: LiveGroup, loop: LoopByHand, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not wait for the answer of the last commit is caught by the partition's states."""
    live.send(take, [Order(f"c{number}", number, 0.5) for number in range(3)])
    loop.look_again()
    loop.work(loop.owned)
    assert loop.calls is not None and loop.calls.commit(loop.owned, last=True)
    assert loop.owned.state is State.COMMITTING
    with monkeypatch.context() as broken:
        broken.setattr(loop.commits, "settle", lambda: None)
        with pytest.raises(ImpossibleEvent):
            loop.calls.commit(loop.owned, last=True)
    loop.commits.settle()
    drain(live, loop)
    assert live.numbers(take) == {f"c{number}": [number] for number in range(3)}
