"""The live overview: one sampler for all listeners, which starts with the first page view."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from celery_partitions.dashboard import live as live_module
from celery_partitions.dashboard.live import AGES, Live, changes
from celery_partitions_config.settings import Settings
from tests.dashboard.group import Filled
from tests.dashboard.served import LOGIN, Served
from tests.dashboard.serving import filled, make_app, served, shop
from tests.producer.conftest import MakeApp
from tests.support.coroutines import run_apart
from tests.support.server import RedisServer
from tests.support.wait import wait_until

__all__ = ["filled", "make_app", "served", "shop"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample every tenth of a second."""
    monkeypatch.setattr(live_module, "MIN_SECONDS", 0.1)


def events(served: Served, path: str = "/partitions/events") -> Iterator[tuple[str, Any]]:
    """The events of a stream, until the caller stops."""
    request = urllib.request.Request(served.base + path)
    request.add_header("Authorization", "Basic " + base64.b64encode(LOGIN.encode()).decode())
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert reply.headers["Content-Type"] == "text/event-stream"
        name = ""
        for line in reply:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


def sampler(served: Served) -> Live | None:
    return next(iter(getattr(served.flower, "partitions_live", {}).values()), None)


def test_the_first_event_has_the_history_and_the_next_ones_the_rows(
    served: Served, filled: Filled, quick: None
) -> None:
    assert sampler(served) is None, "no page is open yet"
    served.ask("/api/partitions")
    stream = events(served, "/api/partitions/events")
    kinds = [next(stream) for _ in range(5)]
    first, *others = [found for kind, found in kinds if kind == "overview"]
    assert [row["partition"] for row in first["partitions"]] == ["0", "1", "2", "3", "ingress"]
    assert others[-1]["partitions"] == [], "nothing has changed"
    (attention,) = [found for kind, found in kinds if kind == "attention"]
    assert attention[0]["rule"] == "no-owner"
    filled.client.lpush("partition.2", "one")
    row = next(row for kind, found in stream if kind == "overview" for row in found["partitions"] if row.get("waiting"))
    assert row["partition"] == "2" and "queue" not in row and "oldest_age_seconds" in row
    stream.close()  # type: ignore[attr-defined]


def test_what_changed_adds_up_to_the_whole(served: Served, filled: Filled, quick: None) -> None:
    stream, known = events(served), dict[str, dict[str, Any]]()

    def hear() -> dict[str, Any]:
        kind, found = next(stream)
        for row in found["partitions"] if kind == "overview" else ():
            known.setdefault(row["partition"], {}).update(row)
        return known

    for _ in range(6):  # all rows were sent, and the next ones are changes
        hear()
    before = known["1"]["waiting"]
    filled.client.lpush("partition.1", "one", "two")
    wait_until(lambda: hear()["1"]["waiting"] == before + 2)
    changing = {*AGES, "history", "in_per_second", "done_per_second", "state"}
    for row in served.ask("/api/partitions").json["partitions"]:
        own = known[row["partition"]]
        assert [name for name, value in row.items() if own[name] != value and name not in changing] == []
    stream.close()  # type: ignore[attr-defined]


def test_ages_alone_are_no_change() -> None:
    row = {"partition": "1", "waiting": 1, "owner": None, "lease_age_seconds": 1.0, "oldest_age_seconds": 2.0}
    assert changes(row, {**row, "oldest_age_seconds": 4.0}) == {}
    assert changes(row, {**row, "waiting": 0, "oldest_age_seconds": None}) == {
        "partition": "1", "waiting": 0, "lease_age_seconds": 1.0, "oldest_age_seconds": None,
    }  # fmt: skip
    assert changes({}, row) == row, "a field that is null is a field"


def test_a_page_that_missed_a_change_gets_all_rows_now_and_then(served: Served, filled: Filled, quick: None) -> None:
    stream = events(served)
    sizes = [len(found["partitions"]) for kind, found in (next(stream) for _ in range(40)) if kind == "overview"]
    assert sizes.count(5) >= 3 and sizes.count(0) >= 20
    stream.close()  # type: ignore[attr-defined]


def test_events_are_compressed_one_by_one(served: Served, filled: Filled, quick: None) -> None:
    request = urllib.request.Request(served.base + "/partitions/events", headers={"Accept-Encoding": "gzip"})
    request.add_header("Authorization", "Basic " + base64.b64encode(LOGIN.encode()).decode())
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.headers["Content-Encoding"] == "gzip"
        unpack, text = zlib.decompressobj(wbits=31), b""
        while b"event: overview" not in text:
            text += unpack.decompress(reply.read1())
    assert served.ask("/partitions", Accept_Encoding="gzip").headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in served.ask("/workers", Accept_Encoding="gzip").headers


def test_all_listeners_share_one_read(served: Served, filled: Filled, quick: None) -> None:
    streams = [events(served) for _ in range(3)]
    for stream in streams:
        next(stream)
    found = sampler(served)
    assert found is not None and found.running
    wait_until(lambda: found._listeners == 3)
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: found._listeners == 0)


def test_the_sampler_stops_after_the_last_page_view(shop: Any, filled: Filled, quick: None) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            live = Live(filled.installation, executor, idle_seconds=0.0)
            assert not live.running
            assert (await live.next())[0] is not None
            assert live._task is not None
            await asyncio.wait_for(live._task, 5)
            assert not live.running
            assert (await live.next())[0] is not None, "and it starts again"
            await live._task

    run_apart(run())


def test_an_unreachable_redis_is_reported_and_so_is_its_return(
    make_app: MakeApp, server_factory: Callable[..., RedisServer], quick: None
) -> None:
    server = server_factory()
    app = make_app(server.url(), Settings(redis_url=server.url(), redis_timeout_seconds=1))
    with Served(app) as served:
        stream = events(served)
        assert next(stream)[0] == "overview"
        server.stop()
        kind, data = next(one for one in stream if one[0] not in ("overview", "attention"))
        assert kind == "unreachable" and data["error"].startswith("Redis: ")
        server.start()
        assert next(one for one in stream if one[0] == "overview")
        stream.close()  # type: ignore[attr-defined]
