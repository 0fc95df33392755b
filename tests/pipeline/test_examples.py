"""The example pipelines on one, two and three workers: the exact sequence of each key, also if a worker is killed midway."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable

import pytest

from tests.pipeline.conftest import LivePipelines
from tests.support.applications import pipelines
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

Make = Callable[..., LivePipelines]

TEXT = ["the cat and the dog", "a cat", "", "the end of  the day", "and the cat"]


def elements(live: LivePipelines, name: str) -> list[object]:
    """The outputs of a list sink, oldest first."""
    return [json.loads(element) for element in reversed(live.client.lrange(name, 0, -1))]


def length(live: LivePipelines, name: str) -> int:
    return int(live.client.xlen(name) if live.client.type(name) == b"stream" else live.client.llen(name))


def kill_midway(live: LivePipelines, worker: WorkerProcess, list_name: str, at: int) -> None:
    wait_until(lambda: live.client.exists(list_name) and length(live, list_name) > at)
    worker.kill()
    live.start_worker()


on_one_to_three = pytest.mark.parametrize(
    ("workers", "killed"), [(1, False), (2, False), (3, False), (1, True), (2, True), (3, True)]
)


@on_one_to_three
def test_word_count(make_pipelines: Make, workers: int, killed: bool) -> None:
    live = make_pipelines()
    started = live.start_workers(workers)
    lines = TEXT * 200
    live.feed(pipelines.lines, lines)
    if killed:
        kill_midway(live, started[0], "counted", 100)
    live.wait_drained()
    wanted: dict[str, int] = defaultdict(int)
    sequences: dict[str, list[int]] = defaultdict(list)
    for word in " ".join(lines).split():
        wanted[word] += 1
        sequences[word].append(wanted[word])
    seen: dict[str, list[int]] = defaultdict(list)
    for word, number in elements(live, "counted"):
        seen[word].append(number)
    assert seen == sequences


@on_one_to_three
def test_every_window_of_every_key_passes_each_hop_once_and_in_order(
    make_pipelines: Make, workers: int, killed: bool
) -> None:
    """The output of a key's n-th message is the numbers n-3 … n: a lost, doubled or swapped message at any hop would show."""
    live = make_pipelines()
    started = live.start_workers(workers)
    keys, count = [f"key-{number}" for number in range(20)], 100
    live.feed(pipelines.numbers_in, (pipelines.Number(key, number) for number in range(1, count + 1) for key in keys))
    if killed:
        kill_midway(live, started[0], "two hops", 200)
    live.wait_drained()
    wanted = [[max(0, number - back) for back in (3, 2, 1, 0)] for number in range(1, count + 1)]
    for hops in ("one hop", "two hops", "three hops"):
        seen: dict[str, list[list[int]]] = defaultdict(list)
        for output in elements(live, hops):
            seen[output["key"]].append(output["last"])
        assert seen == dict.fromkeys(keys, wanted), hops


@on_one_to_three
def test_market_spread(make_pipelines: Make, workers: int, killed: bool) -> None:
    """Two sources, one state per symbol: an order is reported if the quotes sent before it have a wide spread."""
    live = make_pipelines()
    started = live.start_workers(workers)
    symbols, wanted = ["AAPL", "MSFT", "IBM"], defaultdict(list)
    for number in range(200):
        for symbol in symbols:
            is_wide = number % 7 < 3
            live.feed(pipelines.market_data, [pipelines.Quote(symbol, 100.0, 110.0 if is_wide else 100.5)])
            live.feed(pipelines.orders, [pipelines.Order(symbol, number)])
            if is_wide:
                wanted[symbol].append(number)
        if killed and number == 100:
            kill_midway(live, started[0], "alerts", 0)
    live.wait_drained()
    alerts = defaultdict(list)
    for _, entry in live.client.xrange("alerts"):
        symbol, number = json.loads(entry[b"message"])
        assert entry[b"key"].decode() == symbol
        alerts[symbol].append(number)
    assert alerts == wanted


@on_one_to_three
def test_alerts_with_windows(make_pipelines: Make, workers: int, killed: bool) -> None:
    """Event time closes the windows. A timer closes the last one of each device, when no more messages come."""
    live = make_pipelines()
    started = live.start_workers(workers)
    devices, wanted = ["d1", "d2", "d3"], defaultdict(list)
    totals: dict[tuple[str, int], int] = defaultdict(int)
    readings = []
    for second in range(196):
        for number, device in enumerate(devices):
            value = (second * 7 + number) % 23
            readings.append(pipelines.Reading(device, 1_700_000_000 + second / 10, value))
            totals[device, second // 10] += value
    for (device, _), total in totals.items():
        if total > 100:
            wanted[device].append(total)
    live.feed(pipelines.readings, readings)
    if killed:
        kill_midway(live, started[0], "high", 3)
    live.wait_drained()
    alerts = defaultdict(list)
    for device, total in elements(live, "high"):
        alerts[device].append(total)
    assert alerts == wanted
