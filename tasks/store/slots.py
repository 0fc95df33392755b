"""Which server a key is on, where the partitions are on several servers (`PARTITIONS_URL`). Pure: no connection.

Redis Cluster hashes a key, or the part of it in braces, to one of 16,384 slots, and gives each slot to a server. All keys of a numbered
partition share a slot. Every other key (the group's, the ingress's, results, sinks) is on the control server, `REDIS_URL`.

A list of plain servers works in the same way: each has an equal range of slots, in the order of the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ResponseError

from celery_partitions.model.errors import SetupError

DEFAULT_PORT = 6379
SLOTS = REDIS_CLUSTER_HASH_SLOTS

_SCHEMES = {
    "redis": ("redis", False), "rediss": ("rediss", False), "valkey": ("redis", False), "valkeys": ("rediss", False),
    "redis+cluster": ("redis", True), "rediss+cluster": ("rediss", True), "valkey+cluster": ("redis", True), "valkeys+cluster": ("rediss", True),
}  # fmt: skip
#: Commands without a key: they concern a server, not a partition.
_WITHOUT_KEY = frozenset({"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DBSIZE", "FLUSHDB", "INFO", "PING", "SCAN", "SCRIPT", "TIME"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServersURL:
    """A parsed `PARTITIONS_URL`."""

    #: redis or rediss.
    scheme: str
    #: `user:password@`, or empty.
    login: str
    #: Some nodes of the cluster; or all plain servers, in order.
    addresses: tuple[Address, ...]
    is_cluster: bool
    #: Path and query.
    rest: str

    def of(self, address: Address) -> str:
        """The URL of one server."""
        return f"{self.scheme}://{self.login}{address}{self.rest}"


def parse_servers(url: str) -> ServersURL:
    """Parse a `PARTITIONS_URL`. Raises `ValueError`, whose text has no password."""
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise ValueError("it must begin with redis+cluster://, rediss+cluster://, valkey+cluster://, redis:// or rediss://")
    place, slash, path = rest.partition("/")
    mark = ""
    if not slash:
        place, mark, path = place.partition("?")
    at = place.rfind("@") + 1
    login, hosts = place[:at], [one.strip() for one in place[at:].split(",")]
    addresses = []
    for host in hosts:
        try:
            parts = urlsplit(f"//{host}")
            address = Address(parts.hostname or "", parts.port or DEFAULT_PORT)
        except ValueError:
            raise ValueError(f"{host!r} is not host:port") from None
        if not address.host:
            raise ValueError("a host is missing. Write the servers as redis+cluster://a:7000,b:7000")
        addresses.append(address)
    if len(set(addresses)) < len(addresses):
        raise ValueError("it names a server twice")
    known, is_cluster = _SCHEMES[scheme]
    if is_cluster and slash and path.partition("?")[0].strip("/") not in ("", "0"):
        raise ValueError("a cluster has only database 0")
    return ServersURL(known, login, tuple(addresses), is_cluster, f"{slash or mark}{path}")


def check_place(address: Address, expected: str, found: bytes | None) -> None:
    """Raise `SetupError` if a server of a list noted that it has another place in the list: keys would not find their states."""
    if found is not None and found.decode("utf-8", "replace") != expected:
        raise SetupError(
            f"in PARTITIONS_URL the server {address} is number {expected}, but for this group it was number {found.decode('utf-8', 'replace')[:40]}. "
            "The place in the list decides which partitions a server has: write the list as it was, or use another PARTITIONS_GROUP"
        )


class Places:
    """Computes the slot of a key, for one group. `root`: the start of its queues' names (`Names.root`)."""

    def __init__(self, root: str) -> None:
        self._is_partition = re.compile(re.escape(root.encode()) + rb"\.(0|[1-9][0-9]*)")

    def owner(self, key: str | bytes) -> str:
        """The number of a key's partition; `ingress` if the key is on the control server."""
        found = self._is_partition.fullmatch(self._tag(key))
        return found[1].decode() if found else "ingress"

    def slot(self, key: str | bytes) -> int | None:
        """The slot of a partition's key. None: the key is on the control server."""
        tag = self._tag(key)
        return key_slot(tag) if self._is_partition.fullmatch(tag) else None

    @staticmethod
    def _tag(key: str | bytes) -> bytes:
        """What decides about the slot."""
        data = key if isinstance(key, bytes) else key.encode()
        start = data.find(b"{")
        end = data.find(b"}", start + 1) if start >= 0 else -1
        return data[start + 1 : end] if end > start + 1 else data

    def slot_of_command(self, words: Sequence[Any]) -> int | None:
        """The slot of a command's first key. None: it is for the control server."""
        name = words[0].upper()
        if name in ("EVAL", "EVALSHA"):
            return self._slot_of_script(words[3 : 3 + int(words[2])])
        first, _, second = name.partition(" ")
        if first in _WITHOUT_KEY or len(words) < 2 or (not second and first in ("XREAD", "XREADGROUP")):
            return None
        return self.slot(words[1]) if isinstance(words[1], str | bytes) else None

    def _slot_of_script(self, keys: Sequence[Any]) -> int | None:
        slot = self.slot(keys[0]) if keys else None
        if slot is not None and any(self.slot(key) != slot for key in keys[1:]):  # plain servers would not refuse it
            raise ResponseError(f"CROSSSLOT the keys of a script are not on one server: {keys[:3]!r:.300}")
        return slot


def fixed_slots(addresses: Sequence[Address]) -> list[Address | None]:
    """The owner of each slot in a list of plain servers."""
    return [addresses[slot * len(addresses) // SLOTS] for slot in range(SLOTS)]


def slots_in(answer: Iterable[Any], asked: Address) -> list[Address | None]:
    """The owner of each slot, from the answer to CLUSTER SLOTS. `asked`: the server that answered; it may leave out its own host."""
    owners: list[Address | None] = [None] * SLOTS
    for start, end, owner, *_ in answer:
        owners[start : end + 1] = [_address(owner, asked)] * (end + 1 - start)
    return owners


def replicated_in(answer: Iterable[Any], asked: Address) -> frozenset[Address]:
    """The servers that have replicas which the cluster does not hold for failed, from the answer to CLUSTER SLOTS."""
    return frozenset(_address(owner, asked) for _, _, owner, *replicas in answer if replicas)


def _address(node: Sequence[Any], asked: Address) -> Address:
    host, port = node[0], node[1]
    name = host.decode() if isinstance(host, bytes) else host
    return Address(name if name and name != "?" else asked.host, int(port))
