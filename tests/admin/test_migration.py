"""`migrate` reads every state with this code. It writes only with `apply`, and never over what a worker has written meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.migration import ComputationReport, Migration
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.keys import partition_of
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease, balance
from celery_partitions.store.names import Names
from celery_partitions.store.record import split
from tests.model.classes_in_time import Code, code_in_time

N = 4
OLD = "class State:\n    price = 0.0\n"
NEW = """@state(version=2)
class State:
    cents = 0

@migrates(State, to_version=2)
def to_cents(old):
    if old.get("price", 0) < 0: raise ValueError("negative")
    return {"cents": round(old.get("price", 0) * 100)}
"""
NAMES = Names("partition")


@pytest.fixture
def code() -> Iterator[Code]:
    with code_in_time() as made:
        yield made


@pytest.fixture(params=[(), (b"0123456789abcdef",)], ids=["unsigned", "signed"])
def keys(request: pytest.FixtureRequest) -> tuple[bytes, ...]:
    return request.param  # type: ignore[no-any-return]


def store(client: redis.Redis, codec: StateCodec, one: Computation, prices: dict[str, float]) -> None:
    assert one.state is not None
    for key, price in prices.items():
        made = one.state.new()
        made.price = price
        client.hset(NAMES.states(str(partition_of(key, N)), "count"), key, codec.dump(one, key, made))  # type: ignore[arg-type]
    client.hset(NAMES.group_meta, NAMES.computation_field("count"), 1)


def stored(client: redis.Redis) -> dict[str, bytes]:
    rows: dict[bytes, bytes] = {}
    for number in range(N):
        rows |= client.hgetall(NAMES.states(str(number), "count"))  # type: ignore[arg-type]
    return {key.decode(): value for key, value in rows.items()}


def migration(client: redis.Redis, keys: tuple[bytes, ...], *computations: Computation) -> Migration:
    return Migration(client, NAMES, N, StateCodec(keys, group="partition"), computations)


def of_count(reports: list[ComputationReport]) -> ComputationReport:
    return next(one for one in reports if one.computation == "count")


def counts(one: ComputationReport) -> tuple[int, int, int, int, dict[int, int]]:
    return one.states, one.outdated, one.written, one.failed, dict(one.versions)


def test_check_reads_all_and_writes_nothing(client: redis.Redis, code: Code, keys: tuple[bytes, ...]) -> None:
    store(client, StateCodec(keys, group="partition"), code.at(OLD), {f"k{number}": number for number in range(20)} | {"bad": -1.0})
    client.hset(NAMES.states("0", "count"), b"\xff", b"rubbish")  # type: ignore[arg-type]
    client.hset(NAMES.group_meta, NAMES.computation_field("gone"), 1)
    client.hset(NAMES.states("1", "gone"), "key", b"x")
    before, everything = stored_anything(client), set(client.scan_iter())
    reports = migration(client, keys, code.at(NEW)).check()
    one = of_count(reports)
    assert counts(one) == (22, 20, 0, 2, {1: 21, -1: 1})
    assert {(each.key, each.error.partition(":")[0]) for each in one.failures} == {("bad", "state of 'count' with version 1"), ("\\xff", "the state can't be read")}
    (gone,) = [each for each in reports if each.computation == "gone"]
    assert (gone.version, gone.states) == (None, 1)
    assert (stored_anything(client), set(client.scan_iter())) == (before, everything)


def stored_anything(client: redis.Redis) -> list[Any]:
    return [client.hgetall(NAMES.states(str(number), "count")) for number in range(N)]


def test_apply_writes_what_is_outdated(client: redis.Redis, code: Code, keys: tuple[bytes, ...]) -> None:
    store(client, StateCodec(keys, group="partition"), code.at(OLD), {f"k{number}": number for number in range(500)})
    new = code.at(NEW)
    assert counts(of_count(migration(client, keys, new).apply(by="me"))) == (500, 500, 500, 0, {1: 500})
    rows, codec = stored(client), StateCodec(keys, group="partition")
    assert {split(value).header["v"] for value in rows.values()} == {2}
    assert {key: codec.load(new, key, value).cents for key, value in rows.items()} == {f"k{number}": number * 100 for number in range(500)}
    metas = [client.hmget(NAMES.meta(str(number)), [NAMES.version_field("count"), "edit_version"]) for number in range(N)]
    assert all(version == b"2" and int(edits or 0) > 0 for version, edits in metas)
    assert counts(of_count(migration(client, keys, new).apply(by="me"))) == (500, 0, 0, 0, {2: 500})
    last = Audit(client, NAMES).last(2)
    assert [(one.who, one.what, one.detail) for one in last] == [
        ("me", "migrate", {"count": {"written": 0, "failed": 0}}),
        ("me", "migrate", {"count": {"written": 500, "failed": 0}}),
    ]


def test_what_else_is_in_a_header_stays(client: redis.Redis, code: Code, keys: tuple[bytes, ...]) -> None:
    old = code.at(OLD)
    assert old.state is not None
    codec = StateCodec(keys, group="partition")
    record = split(codec.dump(old, "key", old.state.new()))
    states = NAMES.states(str(partition_of("key", N)), "count")
    client.hset(states, "key", codec.seal("count", "key", record.payload, {"other": [1]}))  # type: ignore[arg-type]
    migration(client, keys, code.at(NEW)).apply(by="me")
    assert split(client.hget(states, "key") or b"").header == {"other": [1], "v": 2}  # type: ignore[arg-type]


def test_what_a_worker_writes_meanwhile_stays(client: redis.Redis, code: Code) -> None:
    old_codec, old = StateCodec(), code.at(OLD)
    assert old.state is not None
    made = old.state.new()
    made.price = 7.0
    later = old_codec.dump(old, "k1", made)
    store(client, old_codec, old, {"k1": 1.0, "k2": 2.0})
    one = migration(client, (), code.at(NEW))
    renewed = one.codec.renewed

    def renewed_late(computation: Computation, key: str, found: bytes) -> bytes:
        client.hset(NAMES.states(str(partition_of("k1", N)), "count"), "k1", later)  # type: ignore[arg-type]
        return renewed(computation, key, found)

    one.codec.renewed = renewed_late  # type: ignore[method-assign]
    report = of_count(one.apply(by="me"))
    assert (report.written, report.busy) == (2, 0)
    rows = stored(client)
    new = code.at(NEW)
    assert [StateCodec().load(new, key, rows[key]).cents for key in ("k1", "k2")] == [700, 200]


def test_a_holder_with_older_code_is_fenced(client: redis.Redis, code: Code) -> None:
    store(client, StateCodec(), code.at(OLD), {"key": 1.0})
    partition = str(partition_of("key", N))
    owned = balance(client, NAMES, "old", lease_seconds=60, partitions=N).owned
    migration(client, (), code.at(NEW)).apply(by="me")
    commits = CommitStore(client, NAMES, batch_messages=10, batch_bytes=1000)
    assert {one: commits.peek(Lease(one, token)).status for one, token in owned.items()} == {
        one: "fenced" if one == partition else "ok" for one in owned
    }


def test_a_missing_migration_is_refused(client: redis.Redis, code: Code) -> None:
    gap = NEW.replace("version=2", "version=3", 1)
    with pytest.raises(DeclarationError, match="none to version 3"):
        migration(client, (), code.at(gap)).check()
