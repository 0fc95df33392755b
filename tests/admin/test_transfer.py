"""Export and import: a whole group to a file and back, with the same N or another one. Incomplete files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.dead_letters import DeadLetters
from celery_partitions.admin.importer import Importer
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.status import read_status
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.errors import SetupError, StateError
from celery_partitions.model.keys import key_bytes, partition_of
from celery_partitions.model.task_lines import line_of_task
from celery_partitions.model.topology import Topology
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.leases import balance, release
from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.topology import agree_on_topology
from tests.admin.exported_group import COMPUTATIONS, NAMED, contents, exported, fill_group, key_and_number
from tests.store.test_states import KEYS


def test_with_the_same_n_everything_is_restored(client: redis.Redis, names: Names, file: Path) -> None:
    fill_group(client, names, 4)
    exported(client, names, 4, file)
    before = contents(client)
    client.flushdb()
    done = Importer(client, names, Topology(0, 4), COMPUTATIONS, file).run(by="me")
    after = contents(client)
    assert (done.without_key, done.left_out) == (0, 0)
    meta = {names.meta(partition).encode() for partition in partitions_and_ingress(4)}
    assert {name: value for name, value in after.items() if name not in meta} == {
        name: value for name, value in before.items() if name not in meta
    }
    assert after[b"{partition.1}:meta"] == {b"commit_number": b"9", b"processed": b"70", b"paused": b"1", b"edit_version": b"1"}
    assert after[b"{partition.0}:meta"][b"seen:totals"] == b"123"
    assert 4_000_000 < client.pttl(names.deduplication("0", "totals", "young")) <= 5_000_000
    assert after[b"{partition.2}:meta"] == {b"commit_number": b"9", b"edit_version": b"1"}, "not paused, and ids continue after 9"


def test_into_another_group(client: redis.Redis, names: Names, file: Path) -> None:
    fill_group(client, names, 4)
    exported(client, names, 4, file)
    other = Names("other")
    Importer(client, other, Topology(0, 4), COMPUTATIONS, file).run(by="me")
    rows = zip(read_status(client, names, 4), read_status(client, other, 4), strict=True)
    assert all((a.length, a.keys, a.parked, a.dead, a.delayed) == (b.length, b.keys, b.parked, b.dead, b.delayed) for a, b in rows)


def test_signed_states_are_signed_again_for_another_group(client: redis.Redis, names: Names, file: Path) -> None:
    secrets, other = (b"a secret",), Names("other", "shop:")
    there, here = (StateCodec(secrets, group=one.root) for one in (names, other))
    states = names.states("0", "totals")
    client.hset(states, "good", there.seal("totals", "good", b"N."))  # type: ignore[arg-type]
    client.hset(states, "forged", StateCodec((b"x",), group=names.root).seal("totals", "forged", b"N."))  # type: ignore[arg-type]
    client.hset(names.group_meta, names.computation_field("totals"), 1)
    exported(client, names, 4, file)
    with pytest.raises(SetupError, match="PARTITIONS_STATE_SIGNING_KEY"):
        Importer(client, other, Topology(0, 4), COMPUTATIONS, file).run(by="me")
    Importer(client, other, Topology(0, 4), COMPUTATIONS, file, here).run(by="me")
    found = {key: client.hget(other.states(str(partition_of(key, 4)), "totals"), key) for key in ("good", "forged")}
    assert here.verified("totals", "good", found["good"] or b"") == b"N."  # type: ignore[arg-type]
    with pytest.raises(StateError, match="signature is wrong"):
        here.verified("totals", "forged", found["forged"] or b"")  # type: ignore[arg-type]


def test_an_in_place_dead_letter_stays_with_its_key_even_if_its_message_is_unreadable(
    client: redis.Redis, names: Names, file: Path
) -> None:
    fill_group(client, names, 4)
    exported(client, names, 4, file)
    client.flushdb()
    Importer(client, names, Topology(0, 7), {}, file).run(by="me")
    parked = ParkedKeys(client, names, Topology(0, 7), Audit(client, names))
    dead_letters = [dead_letter for dead_letter in DeadLetters(client, names, Topology(0, 7)).all() if dead_letter.in_place]
    assert len(dead_letters) == 8
    for dead_letter in dead_letters:
        found = parked.of_dead_letter(dead_letter)
        assert found is not None and dead_letter.partition == str(found.partition)


@pytest.mark.parametrize(("partitions", "there"), [(4, ["0", "3", "ingress"]), (2, ["0", "1", "ingress"]), (7, ["0", "3", "ingress"])])
def test_the_lines_of_unknown_tasks_are_where_operators_find_them(
    client: redis.Redis, names: Names, file: Path, partitions: int, there: list[str]
) -> None:
    agree_on_topology(client, names, 4)
    for partition in ("0", "3", "ingress"):
        line = line_of_task("new", partition)
        client.hset(names.parked(partition), line, msgspec.json.encode(ParkedKey(1.0, 2, reason="unknown-task")))  # type: ignore[arg-type]
        client.lpush(names.mailbox(partition, line), b"older", b"younger")  # type: ignore[arg-type]
    exported(client, names, 4, file)
    client.flushdb()
    Importer(client, names, Topology(0, partitions), COMPUTATIONS, file).run(by="me")
    parked = ParkedKeys(client, names, Topology(0, partitions), Audit(client, names))
    assert sorted(str(one.partition) for one in parked.all()) == there
    for one in parked.all():
        assert (one.key, one.waiting) == (line_of_task("new", str(one.partition)), 2)
        assert client.lrange(names.mailbox(str(one.partition), one.key), 0, -1) == [b"younger", b"older"]  # type: ignore[arg-type]
        assert parked.retry(one.key, by="me") == "ok"


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_with_another_n_everything_goes_to_its_keys_partition_in_order(
    client: redis.Redis, names: Names, file: Path, partitions: int
) -> None:
    fill_group(client, names, 4)
    exported(client, names, 4, file)
    client.flushdb()
    done = Importer(client, names, Topology(0, partitions), COMPUTATIONS, file).run(by="me")
    assert (done.from_partitions, done.to_partitions, done.without_key) == (4, partitions, 1)
    in_queues: dict[str, list[int]] = {}
    states: set[bytes] = set()
    for number in range(partitions):
        partition = str(number)
        for raw in client.lrange(names.queue(partition), 0, -1)[::-1]:  # type: ignore[index]
            if raw != b"no message at all":
                key, one = key_and_number(raw)
                assert partition_of(key, partitions) == number
                in_queues.setdefault(key, []).append(one)
        for key in client.hkeys(names.states(partition, "totals")):
            assert partition_of(key, partitions) == number
            states.add(key)
        for field, row in client.hgetall(names.dead(partition)).items():
            if field != b"by hand":
                dead_letter = msgspec.json.decode(row, type=DeadLetter)
                assert (dead_letter.partition, partition_of(dead_letter.key, partitions)) == (partition, number)
                parked = msgspec.json.decode(client.hget(names.parked(partition), dead_letter.key), type=ParkedKey)  # type: ignore[arg-type]
                assert parked.dead_letter == dead_letter.id
                waiting = client.lrange(names.mailbox(partition, dead_letter.key), 0, -1)[::-1]  # type: ignore[arg-type, index]
                assert [key_and_number(raw)[1] for raw in waiting] == [100, 101, 102]
        for entry in client.zrange(names.delayed(partition), 0, -1):
            assert partition_of(key_and_number(entry.partition(b":")[2])[0], partitions) == number  # type: ignore[union-attr]
    assert in_queues == {**{key: [0, 1, 2] for key in NAMED}, "prior": [0]}
    assert states == {key_bytes(key) for key in KEYS}
    rows = read_status(client, names, partitions)
    assert (sum(row.parked for row in rows), sum(row.dead for row in rows), sum(row.delayed for row in rows)) == (8, 9, 8)
    assert sum(row.processed for row in rows) == 80
    assert rows[-1].length == 1
    assert all(int(client.hget(names.meta(partition), "commit_number") or 0) == 9 for partition in partitions_and_ingress(partitions))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: lines[:-1], "the last line is missing"),
        (lambda lines: lines[:5] + lines[6:], "it is incomplete"),
        (lambda lines: [*lines[:5], lines[5][:20], *lines[6:]], "line 6"),
        (lambda lines: lines[1:], "not written by"),
        (lambda lines: [lines[0].replace('"version":1', '"version":2'), *lines[1:]], "version 2"),
        (lambda lines: [lines[0], *lines], "second header"),
        (lambda lines: ["nonsense"], "not written by"),
        (lambda lines: [], "not written by"),
    ],
)
def test_an_incomplete_file_is_refused_and_nothing_is_written(
    client: redis.Redis, names: Names, file: Path, damage: Any, words: str
) -> None:
    fill_group(client, names, 4)
    exported(client, names, 4, file)
    client.flushdb()
    file.write_text("\n".join(damage(file.read_text().splitlines())))
    with pytest.raises(SetupError, match=words):
        Importer(client, names, Topology(0, 4), COMPUTATIONS, file).run(by="me")
    assert contents(client) == {}


def test_no_import_while_a_worker_runs(client: redis.Redis, names: Names, file: Path) -> None:
    fill_group(client, names, 4)
    exported(client, names, 4, file)
    share = balance(client, names, "celery@here/1", lease_seconds=60, partitions=4)
    importer = Importer(client, names, Topology(0, 4), COMPUTATIONS, file)
    for act in (importer.refuse_workers, importer.erase, lambda: importer.run(by="me")):
        with pytest.raises(SetupError, match="celery@here"):
            act()
    release(client, names, "celery@here/1", share.owned, leave=True)
    importer.refuse_workers()


def test_the_contents_of_a_group_are_counted_and_erase_deletes_only_that_group(
    client: redis.Redis, names: Names, file: Path
) -> None:
    for group in ("partition", "partition.0x", "partition-2", "other"):
        fill_group(client, Names(group), 4)
    client.set("partitions", "mine")
    exported(client, names, 4, file)
    importer = Importer(client, names, Topology(0, 4), COMPUTATIONS, file)
    assert importer.holds() == {"messages": 3 * len(NAMED) + 3 + 8, "states": len(KEYS), "parked keys": 8, "dead letters": 9}
    importer.erase()
    assert importer.holds() == {}
    left = [name.lstrip(b"{").replace(b"}", b"") for name in contents(client)]
    assert not [name for name in left if name.partition(b":")[0].partition(b".")[0] == b"partition" and b".0x" not in name]
    assert sum(name.startswith(b"other") for name in left) == sum(b".0x" in name for name in left) > 5
    assert client.get("partitions") == b"mine"


def test_an_interrupted_import_leaves_the_group_paused(client: redis.Redis, names: Names, file: Path) -> None:
    fill_group(client, names, 4)
    exported(client, names, 4, file)
    client.flushdb()
    client.set(names.queue("0"), "text")
    with pytest.raises(redis.ResponseError):
        Importer(client, names, Topology(0, 4), COMPUTATIONS, file).run(by="me")
    assert all(row.paused for row in read_status(client, names, 4))
