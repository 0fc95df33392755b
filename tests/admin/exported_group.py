"""The group that the tests of export and import fill, export and compare."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import redis

from celery_partitions.admin.exporter import Exporter
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.keys import key_bytes, partition_of
from celery_partitions.store.commands import park
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.leases import remember_computations
from celery_partitions.store.names import INGRESS, Names
from celery_partitions.store.topology import agree_on_topology
from tests.store.declared import computation
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


def exported(client: redis.Redis, names: Names, partitions: int, file: Path, *, pause_all: bool = False) -> Exporter:
    exporter = Exporter(client, names, partitions, by="me")
    exporter.write(file, pause_all=pause_all)
    return exporter
