"""The size of a batch is limited by its messages' decompressed and decoded bytes, and by the bytes of its states."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.model.items import MEMORY_PER_BYTE, Reading, memory_of, read_batch
from celery_partitions.model.outcome import Slot
from celery_partitions.model.topology import Topology
from celery_partitions.worker.state_cache import StateCache
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.model.build import raw_envelope
from tests.worker import growing
from tests.worker.by_hand import loop_by_hand

COUNT = declare(lambda message, state: None, name="count", state=dict, key=lambda message: str(message["key"]))


def compressed(key: str, size: int) -> bytes:
    body = json.dumps([[{"key": key, "text": "x" * size}], {}, {}]).encode()
    return raw_envelope(gzip.compress(body), headers={"task": "count", "compression": "application/x-gzip"})


def read(raws: list[bytes], batch_bytes: int) -> list[Any]:
    reading = Reading({"count": COUNT}, (), 0, Topology(0, 1), batch_bytes=batch_bytes)
    return read_batch(raws, reading, now=0.0, revoked=())


def test_compressed_messages_are_not_all_decompressed_together() -> None:
    raws = [compressed(f"k{number}", 1_000_000) for number in range(50)]
    assert sum(map(len, raws)) < 200_000
    items = read(raws, 500_000)
    assert [item.raw for item in items] == raws[: 500_000 * MEMORY_PER_BYTE // 1_000_000 - 1]


def test_one_message_is_always_read() -> None:
    raws = [compressed("a", 5_000_000), compressed("b", 5_000_000)]
    assert [item.key for item in read(raws, 1_000)] == ["a"]


def test_json_of_many_small_values_counts_with_its_decoded_size() -> None:
    lists = b"[[" + b"[]," * 100_000 + b"1],{},{}]"
    assert memory_of(lists) > 10 * len(lists)
    raws = [raw_envelope(lists, headers={"task": "count"}) for _ in range(10)]
    assert len(read(raws, sum(map(len, raws)))) < 5


def test_small_messages_are_all_read() -> None:
    raws = [raw_envelope(b'[[{"key":1}],{},{}]', headers={"task": "count"}) for _ in range(2000)]
    assert len(read(raws, 4_000_000)) == 2000


def work(*keys: str) -> list[Any]:
    raws = [raw_envelope(json.dumps([[{"key": key}], {}, {}]).encode(), headers={"task": "count"}) for key in keys]
    return read(raws, 4_000_000)


def cache_with(**sizes: int) -> StateCache:
    cache = StateCache()
    cache.missing(work(*sizes))
    cache.add({"count": {key: Slot({}, bytes(size)) for key, size in sizes.items()}})
    return cache


@pytest.mark.parametrize("limit", [0, 100], ids=["older copy", "young copy"])
def test_a_state_that_comes_back_from_a_call_replaces_what_was_read_meanwhile(limit: int) -> None:
    cache = cache_with(a=10)
    ((name, table),) = cache.take(["count"], "a").items()
    assert cache.missing(work("a")) == {"count": ["a"]}
    cache.add({"count": {"a": Slot({}, bytes(10))}})
    cache.trim(limit, 1_000_000)  # with 0 it moves the copy to the old generation
    table["a"].stored = bytes(20)  # type: ignore[union-attr]
    cache.give_back({name: table})
    assert not cache.missing(work("a"))
    assert cache.take(["count"], "a") == {"count": table}
    assert cache.missing(work("a")) == {"count": ["a"]}
    assert (cache._young_bytes, cache._old_bytes) == (0, 0)


def test_a_batch_ends_before_its_states_would_be_too_large() -> None:
    items = work("a", "a", "b", "a", "c", "d")
    cache = cache_with(a=40, b=40)
    assert cache.fitting(items, {"count": {"c": 40, "d": 1}}, 100) == 4
    assert cache.fitting(items, {"count": {"c": 20, "d": 1}}, 100) == 5
    assert cache.fitting(items, {}, 1) == 1
    assert cache.fitting(items, {}, 80) == 6


def test_states_are_evicted_by_their_bytes() -> None:
    cache = cache_with(a=30, b=30)
    cache.trim(100, 100)  # more than half: now both are in the older generation
    assert cache.missing(work("c")) == {"count": ["c"]}
    cache.add({"count": {"c": Slot({}, bytes(40))}})
    cache.trim(100, 100)
    assert cache.missing(work("c", "d")) == {"count": ["d"]}
    cache.add({"count": {"d": Slot({}, bytes(20))}})
    cache.trim(100, 100)
    assert set(cache.missing(work("a", "b"))["count"]) == {"a", "b"}
    assert cache.missing(work("c", "d")) == {}


def test_a_state_that_grows_counts_with_its_new_size() -> None:
    cache = cache_with(a=10)
    cache.committed({"count": {"a": bytes(500)}})
    assert cache.largest == 500
    cache.trim(100, 400)
    assert "a" in cache.missing(work("a"))["count"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_worker_ends_a_batch_before_its_states_get_too_large(make_live: Callable[..., LiveGroup], restart: bool) -> None:
    """The number of commits shows it from outside."""
    live = make_live(PARTITIONS=1, PARTITIONS_BATCH_STATE_BYTES=1_000_000, PARTITIONS_STATE_CACHE_BYTES=1_000_000)
    live.start_worker(module=growing.__name__).wait_ready()
    keys = [f"k{number}" for number in range(30)]

    def send(size: int) -> int:
        before = commits()
        for key in keys:
            live.app.send_task("grow", args=[{"key": key, "size": size}], queue="partition.0")
        live.wait_drained()
        return commits() - before

    def commits() -> int:
        return int(live.client.hget(live.names.meta("0"), "commit_number") or 0)  # type: ignore[arg-type]

    send(300_000)
    live.send_task("grow", {"key": "small", "size": 1}, queue="partition.0")
    live.wait_drained()
    if restart:
        for worker in live.workers:
            worker.terminate()
            worker.wait()
    before = commits()
    with live.client.pipeline() as pipe:  # all at once, so that they are one batch unless the worker bounds it
        for key in keys:
            body = json.dumps([[{"key": key, "size": 300_001}], {}, {}]).encode()
            pipe.lpush("partition.0", raw_envelope(body, headers={"task": "grow", "id": key}))
        pipe.execute()
    if restart:
        live.start_worker(module=growing.__name__).wait_ready()
    live.wait_drained()
    assert commits() - before >= 9


def test_what_a_short_batch_leaves_is_not_read_again(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_BATCH_SECONDS=0.000_001)
    live.send(record, [Step("key", number) for number in range(20)])
    asked = []
    with loop_by_hand(live) as loop:
        loop.look_again()
        while live.numbers_of(record, "key") != list(range(20)):
            loop.work(loop.owned)
            assert loop.commits.pending is not None
            asked.append(loop.commits.pending.planned.commit.ask)
            loop.commits.settle()
    assert asked.pop() > 0
    assert len(asked) > 1 and set(asked) == {0}
