"""Export and import: a whole group to a file and back, with the same N or another one. Files are consistent; incomplete ones are refused."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.dead_letters import DeadLetters
from celery_partitions.admin.exporter import Exporter
from celery_partitions.admin.importer import Importer
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.pause import pause
from celery_partitions.admin.status import read_status
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.errors import SetupError, StateError
from celery_partitions.model.keys import key_bytes, partition_of
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.task_lines import line_of_task
from celery_partitions.model.topology import Topology
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.commands import park
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.leases import Lease, balance, release, remember_computations
from celery_partitions.store.names import INGRESS, Names, partitions_and_ingress
from celery_partitions.store.topology import agree_on_topology
from tests.store.declared import commands_of_outcome, commit_of, computation
from tests.store.test_states import KEYS

TOTALS = computation()
COMPUTATIONS = {"totals": TOTALS}
#: The states of `totals` with keys that JSON can represent.
NAMED = [key for key in KEYS if key.isprintable() and "\udcff" not in key] + [f"k{number}" for number in range(40)]


def message(key: str, number: int) -> bytes:
    body = base64.b64encode(json.dumps([[{"key": key, "amount": number}], {}, {}]).encode()).decode()
    properties = {"body_encoding": "base64", "delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "x"}}
    headers = {"task": "totals", "id": f"{key}-{number}"}
    return json.dumps({"body": body, "content-type": "application/json", "headers": headers, "properties": properties}).encode()


def key_and_number(raw: bytes) -> tuple[str, int]:
    sent = json.loads(base64.b64decode(json.loads(raw)["body"]))[0][0]
    return sent["key"], sent["amount"]


def fill_group(client: redis.Redis, names: Names, partitions: int) -> None:
    """Create some of everything that a group can contain."""
    agree_on_topology(client, names, partitions)
    remember_computations(client, names, ["totals"])
    for number, key in enumerate(KEYS):
        client.hset(names.states(str(partition_of(key, partitions)), "totals"), key_bytes(key), b"\x01%d" % number)  # type: ignore[arg-type]
    for number in range(3):
        for key in NAMED:
            client.lpush(names.queue(str(partition_of(key, partitions))), message(key, number))
    client.lpush(names.queue("1"), b"no message at all")
    client.lpush(names.queue("1") + "\x06\x163", message("prior", 0))
    client.lpush(names.queue(INGRESS), message("in", 0))
    for number, key in enumerate(NAMED[:8]):
        partition = str(partition_of(key, partitions))
        for one in range(3):
            client.lpush(names.mailbox(partition, key), message(key, 100 + one))  # type: ignore[arg-type]
        for command in park(names, partition, {key: ParkedKey(None, 4, dead_letter=f"{partition}-9-p{number}")}):
            client.execute_command(*command)
        raw = base64.b64encode(message(key, 100)).decode()
        dead_letter = DeadLetter(f"{partition}-9-p{number}", partition, "r", "e", "", "totals", "i", key, 1, 1.0, raw, True)
        client.hset(names.dead(partition), dead_letter.id, msgspec.json.encode(dead_letter))  # type: ignore[arg-type]
        client.zadd(names.delayed(partition), {b"0000000000000009.0000000%d:" % number + message(key, 200): 5e12 + number})
    client.hset(names.dead("0"), "by hand", b"not ours")
    client.hset(names.dead_raw("0"), "by hand", b"a long message \xff")
    client.hset(names.meta("1"), mapping={"commit_number": 9, "processed": 70, "edit_version": 3, "to_isolate": 5, "paused": 1})
    client.hset(names.meta("0"), mapping={"commit_number": 4, "processed": 10, "seen:totals": 123})
    client.sadd(names.deduplication("0", "totals", "young"), *(b"id %d" % number for number in range(2500)))
    client.pexpire(names.deduplication("0", "totals", "young"), 5_000_000)
    client.hset(names.policies, "totals", b'{"attempts":5}')


def contents(client: redis.Redis) -> dict[bytes, Any]:
    """Everything in the database except the audit, ignoring the order of sets and hashes."""
    found: dict[bytes, Any] = {}
    for name in client.scan_iter(count=1000):
        match client.type(name):
            case b"hash":
                found[name] = client.hgetall(name)
            case b"list":
                found[name] = client.lrange(name, 0, -1)
            case b"zset":
                found[name] = client.zrange(name, 0, -1, withscores=True)
            case b"set":
                found[name] = client.smembers(name)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "all.jsonl"


def exported(client: redis.Redis, names: Names, partitions: int, file: Path, *, pause_all: bool = False) -> Exporter:
    exporter = Exporter(client, names, partitions, by="me")
    exporter.write(file, pause_all=pause_all)
    return exporter


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


def test_the_file_is_readable_by_its_owner_and_appears_only_when_complete(client: redis.Redis, names: Names, file: Path) -> None:
    fill_group(client, names, 4)
    exported(client, names, 4, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    client.set(names.parked("3"), "text")
    other = file.with_name("other")
    with pytest.raises(redis.ResponseError):
        exported(client, names, 4, other)
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]


class Busy(redis.Redis):
    """While the export reads partition 2, its worker commits as long as it is allowed to."""

    lease: Lease
    commits = 0
    limit = 10**9

    def execute_command(self, *args: object, **options: object) -> object:
        if args[0] == "HSCAN" and args[1] == "{partition.2}:parked" and self.commits < self.limit:
            names = Names("partition")
            own = redis.Redis(connection_pool=self.connection_pool)
            paused = own.hget(names.meta("2"), "paused")
            # A worker commits the batch that was running when its partition was paused, then stops.
            if paused is None or not self.__dict__.get("last"):
                self.last = paused is not None
                self.commits += 1
                write = [["HSET", names.states("2", "totals"), "k", b"1" * 200_000 if self.commits == 1 else b"2"]]
                store = CommitStore(own, names, batch_messages=1, batch_bytes=1000)
                assert store.send(commit_of(self.lease, [], commit_number=None, commands=write)).status == "ok"
        return super().execute_command(*args, **options)


@pytest.fixture
def busy(redis_url: str, lease: Lease) -> Iterator[Busy]:
    client = Busy.from_url(redis_url)
    client.lease = lease
    yield client
    client.close()


def state_of_k(file: Path) -> list[bytes]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [base64.b64decode(row["state"]) for row in rows if row["kind"] == "state" and row["key"] == "aw=="]


def test_a_partition_that_changes_while_it_is_read_is_paused_and_read_again(
    busy: Busy, client: redis.Redis, names: Names, file: Path
) -> None:
    fill_group(client, names, 4)
    exporter = exported(busy, names, 4, file)
    assert (exporter.paused, client.hget(names.meta("2"), "paused")) == (["2"], None)
    # One commit happened during the first read, one more while it was paused. The file has the state after both, once,
    # and nothing from the first, longer attempt.
    assert (busy.commits, state_of_k(file)) == (2, [b"2"])


def test_with_pause_all_an_output_of_a_running_batch_is_in_the_file_once(
    client: redis.Redis, names: Names, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that was running when all partitions were paused sends a message to a partition that was already written."""
    fill_group(client, names, 4)
    client.lpush(names.queue("3"), message("cause", 0))
    sound, commits = Exporter._write_partition, [1]

    def write_partition(exporter: Exporter, stream: Any, partition: str) -> int:
        if partition == "2" and commits:
            commits.clear()
            client.lpop(names.queue("3"))
            client.lpush(names.queue("0"), message("hop", 1))
            client.hincrby(names.meta("3"), "commit_number", 1)
        return sound(exporter, stream, partition)

    monkeypatch.setattr(Exporter, "_write_partition", write_partition)
    exported(client, names, 4, file, pause_all=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    written = [base64.b64decode(row["message"]) for row in rows if row["kind"] == "message"]
    assert (written.count(message("cause", 0)), written.count(message("hop", 1))) == (0, 1)
    assert rows[-1] == {"kind": "end", "records": len(rows) - 2}


def test_with_pause_all_every_partition_is_paused_and_already_paused_ones_stay_paused(
    client: redis.Redis, names: Names, file: Path
) -> None:
    fill_group(client, names, 4)
    assert sorted(exported(client, names, 4, file, pause_all=True).paused) == ["0", "2", "3", INGRESS]
    assert [client.hget(names.meta(partition), "paused") for partition in partitions_and_ingress(4)] == [None, b"1", None, None, None]


def test_partitions_paused_by_an_operator_or_a_policy_during_an_export_stay_paused(
    client: redis.Redis, names: Names, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_group(client, names, 4)
    sound, paused = Exporter._write_partitions, list[str]()

    def write_partitions(exporter: Exporter, stream: Any, all_partitions: list[str]) -> int:
        paused.extend(pause(client, names, ["0", "2"], by="me"))
        for command in commands_of_outcome(Outcome(pause=True), names, "3", 0, 0.0):
            client.execute_command(*command)
        return sound(exporter, stream, all_partitions)

    monkeypatch.setattr(Exporter, "_write_partitions", write_partitions)
    exported(client, names, 4, file, pause_all=True)
    assert paused == ["0", "2"], "the operator's call must report these as paused now"
    assert [client.hget(names.meta(partition), "paused") for partition in partitions_and_ingress(4)] == [b"1", b"1", b"1", b"1", None]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["partition"]: row["values"].get("paused") for row in rows if row["kind"] == "meta"} == {
        **{str(number): "1" for number in range(4)},
        INGRESS: None,
    }


def test_messages_that_arrive_while_a_queue_is_read_do_not_shift_it(client: redis.Redis, names: Names, file: Path) -> None:
    agree_on_topology(client, names, 4)
    client.lpush(names.queue("0"), *(b"%d" % number for number in range(2500)))

    class Pushing(redis.Redis):
        def execute_command(self, *args: object, **options: object) -> object:
            if args[0] == "LRANGE":
                super().execute_command("LPUSH", args[1], "new", "newer")
            return super().execute_command(*args, **options)

    with Pushing(connection_pool=client.connection_pool) as pushing:
        exported(pushing, names, 4, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = [base64.b64decode(row["message"]) for row in rows if row["kind"] == "message"]
    assert found == [b"%d" % number for number in range(2500)]


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
