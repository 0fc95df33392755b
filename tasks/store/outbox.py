"""The outbox: what a commit sends to other servers (`PARTITIONS_URL`), exactly once and in order.

A script can write on one server only. So a commit appends an *entry* for each other place it sends to, a partition or the control server, to
its own partition's outbox. Then the worker sends the entries with `receive.lua`, which applies each one once.

The entries from one source to one target are a chain. A *tail* is the number of an entry, and a digest of it and all before it. An entry names
the tail that it follows; the target keeps the tail of the last entry that it applied. So a repeated entry is ignored, a missing one is noticed,
and so is a source or a target that has lost data in a failover: its chain is another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from itertools import islice
from typing import Any, Literal, NamedTuple, cast

import msgspec
import redis

from celery_partitions.store.commands import declare, keys_in, split
from celery_partitions.store.names import Names
from celery_partitions.store.replicas import Replicas
from celery_partitions.store.scripts import digest_of, script
from celery_partitions.store.servers import server_of
from celery_partitions.store.slots import Places

#: A source with more entries, or longer ones, takes no messages until some are sent.
MAX_ENTRIES, MAX_BYTES = 2000, 64_000_000
#: In one call of `receive`.
ENTRIES_IN_ONE_CALL, BYTES_IN_ONE_CALL = 200, 8_000_000

Status = Literal["ok", "gap", "history", "wrongtype"]


class Entry(msgspec.Struct, array_like=True):
    """What one commit sends to one target."""

    target: str
    #: The tail of the entry before it; "" for the first.
    before: str
    #: Its own.
    tail: str
    #: msgpack: a list of Redis commands, each a list of words.
    commands: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """The answer to `receive`."""

    status: Status
    #: The tail of the last entry that the target has applied.
    tail: str
    #: For `wrongtype`: the key that has the wrong type, or that this user may not write.
    culprit: str


def number_of(tail: str) -> int:
    """The number of an entry."""
    return int(tail.partition(":")[0] or 0)


class _Listed(NamedTuple):
    """An entry in the list."""

    target: str
    number: int
    #: SHA-1 of its bytes.
    digest: str


class Outbox:
    """The outbox of one source, in its holder's hands."""

    def __init__(self, names: Names, source: str, key: str, tails_key: str) -> None:
        self.names, self.source, self.key, self.tails_key = names, source, key, tails_key
        self._places = Places(names.root)
        #: What needs no outbox: the source's own partition, or the control server.
        self._at = self._places.owner(key)
        self.is_loaded = False
        #: During a resize: an entry is sent only when all before it have arrived. 1: those of one commit go to lower partitions first, -1: to
        #: higher ones. A key's former partition comes first then: an earlier message may have been sent there. 0: targets do not wait for each other.
        self.order = 0
        #: Replicas of its server have everything in the list, or need not.
        self.lasts = True
        #: Everything in the list, oldest first.
        self._listed: deque[_Listed] = deque()
        #: Target → the entries that it does not have yet, oldest first, with their sizes.
        self._waiting: dict[str, deque[tuple[int, Entry]]] = {}
        self._count = self._bytes = 0
        #: Target → tail of the last entry for it; number of the last one that it has; and of the last one that its replicas have.
        self._tails: dict[str, str] = {}
        self._delivered: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._packed: list[bytes] = []

    @classmethod
    def of_partition(cls, names: Names, partition: str) -> Outbox:
        return cls(names, partition, names.outbox(partition), names.outbox_tails(partition))

    def load(self, client: redis.Redis, replicas: Replicas | None = None) -> None:
        """Read it from Redis. `replicas`: also find out whether they have what was read. Raises redis-py's errors."""
        commands, lasts = [("HGETALL", self.tails_key), ("LRANGE", self.key, 0, -1)], True
        if replicas is None:
            with client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                tails, entries = pipe.execute()
        else:
            (tails, entries), lasts = replicas.read(client, self.names, self.source, commands)
            tails = tails if isinstance(tails, dict) else dict(zip(tails[::2], tails[1::2], strict=True))
        self.forget()
        self._append(entries)
        self._tails = {target.decode(): tail.decode() for target, tail in tails.items()}
        self.is_loaded, self.lasts = True, lasts

    def forget(self) -> None:
        """It may have changed in Redis."""
        self._listed.clear()
        self._waiting.clear()
        self._delivered.clear()
        self._kept.clear()
        self._count = self._bytes = 0
        self._packed, self.is_loaded = [], False

    def begin(self) -> None:
        """Use it without a list in Redis: what this process has not sent is lost with it."""
        self.is_loaded = True

    def pack(self, commands: Iterable[list[Any]], *, keeps: bool = True) -> list[list[Any]]:
        """The commands of a commit, with those for other servers replaced by the commands that append them to the outbox. `keeps`: False
        without a list in Redis."""
        own, others = [], cast(dict[str, list[list[Any]]], {})
        for command in commands:
            target = self._places.owner(keys_in(command)[0])
            if target == self._at:
                own.append(command)
            else:
                others.setdefault(target, []).append(command)
        self._packed = []
        if not others:
            return own
        if not self.is_loaded:
            raise RuntimeError(f"the outbox of {self.source!r} is used before it was read")
        for target, some in sorted(others.items(), key=self._rank) if self.order else others.items():
            before, packed = self._tails.get(target, ""), msgspec.msgpack.encode(some)
            tail = f"{number_of(before) + 1}:{sha1(before.encode() + packed, usedforsecurity=False).hexdigest()[:16]}"
            self._packed.append(msgspec.msgpack.encode(Entry(target, before, tail, packed)))
            if keeps:
                own.append(["HSET", self.tails_key, target, tail])
        return own + list(split(["RPUSH", self.key], self._packed)) if keeps else own

    def _rank(self, one: tuple[str, object]) -> int:
        return self.order * int(one[0]) if one[0].isdigit() else 0

    @property
    def is_packed(self) -> bool:
        """The last `pack` has something for other servers."""
        return bool(self._packed)

    def written(self, *, lasts: bool = True) -> None:
        """The commit of the last `pack` is written. `lasts`: replicas have it, and so everything before it."""
        packed, self._packed = self._packed, []
        if packed:
            self._append(packed)
            self.lasts = lasts

    def _append(self, packed: Sequence[bytes]) -> None:
        for one in packed:
            entry = msgspec.msgpack.decode(one, type=Entry)
            self._tails[entry.target] = entry.tail
            self._listed.append(_Listed(entry.target, number_of(entry.tail), digest_of(one)))
            self._waiting.setdefault(entry.target, deque()).append((len(one), entry))
            self._count, self._bytes = self._count + 1, self._bytes + len(one)

    @property
    def is_full(self) -> bool:
        """Too much waits for targets that do not take it."""
        return self._count > MAX_ENTRIES or self._bytes > MAX_BYTES

    @property
    def sent(self) -> int:
        """How many entries were sent and are still in the list."""
        return len(self._listed) - self._count

    @property
    def is_empty(self) -> bool:
        return not self._listed

    @property
    def left(self) -> int:
        """How many entries wait."""
        return self._count

    @property
    def has_arrived(self) -> bool:
        """Every target has everything that was sent to it."""
        return self.is_loaded and not self._count

    def waiting(self) -> dict[str, list[Entry]]:
        """Target → the entries to send next, oldest first."""
        found: dict[str, list[Entry]] = {}
        first = self._first() if self.order else None
        for target, entries in self._waiting.items() if first is None else [first]:
            total = 0
            for size, entry in islice(entries, ENTRIES_IN_ONE_CALL):
                total += size
                if target in found and total > BYTES_IN_ONE_CALL:
                    break
                found.setdefault(target, []).append(entry)
        return found

    def _first(self) -> tuple[str, deque[tuple[int, Entry]]]:
        """The target of the oldest entry that waits, and those of its entries that no other target's come before."""
        target, some = "", deque[tuple[int, Entry]]()
        for listed in self._listed:
            entries = self._waiting[listed.target]
            if not entries or listed.number < number_of(entries[0][1].tail):
                continue  # it has arrived
            if some and listed.target != target:
                break
            target = listed.target
            some.append(entries[len(some)])
            if len(some) == ENTRIES_IN_ONE_CALL:
                break
        return target, some

    def delivered(self, target: str, tail: str) -> None:
        """The target has the entries up to this tail."""
        entries, number = self._waiting.get(target, deque()), number_of(tail)
        self._delivered[target] = max(self._delivered.get(target, 0), number)
        while entries and number_of(entries[0][1].tail) <= number:
            size, _ = entries.popleft()
            self._count, self._bytes = self._count - 1, self._bytes - size

    def knows(self, target: str, tail: str) -> bool:
        """Whether a tail is one of this chain. If not, the target has applied what the source has lost since."""
        number = number_of(tail)
        if number > number_of(self._tails.get(target, "")):
            return False
        return all(entry.tail == tail for _, entry in self._waiting.get(target, ()) if number_of(entry.tail) == number)

    def catch_up(self, client: redis.Redis, replicas: Replicas | None, target: str, tail: str) -> bool:
        """Read the outbox again, because a target has another tail than expected: it has lost entries that are still in the list, or another
        worker has sent more. Whether what waits now follows that tail. Raises redis-py's errors."""
        self.load(client, replicas)
        self.delivered(target, tail)
        first = next(iter(self._waiting.get(target, ())), None)
        return (self._tails.get(target, "") if first is None else first[1].before) == tail

    def to_keep(self) -> list[str]:
        """Targets that have entries which their replicas may not have."""
        return [target for target, number in self._delivered.items() if number > self._kept.get(target, 0)]

    def number_delivered(self, target: str) -> int:
        """The number of the last entry that a target has."""
        return self._delivered.get(target, 0)

    def kept(self, target: str, number: int) -> None:
        """A target's replicas have the entries up to this one: they may be removed."""
        self._kept[target] = number

    def keep_all(self) -> None:
        """No replicas are waited for."""
        self._kept.update(self._delivered)

    def trim(self, client: redis.Redis, meta: str, token: int) -> None:
        """Remove the oldest entries, which were sent and kept. Does nothing if another owner has taken over. Raises redis-py's errors."""
        count = 0
        while count < len(self._listed) and self._listed[count].number <= self._kept.get(self._listed[count].target, 0):
            count += 1
        if count:
            script("trim_outbox").run(client, [meta, self.key], [token, count, self._listed[count - 1].digest])
            for _ in range(count):
                self._listed.popleft()


def keep(client: redis.Redis, names: Names, outbox: Outbox, replicas: Replicas | None) -> None:
    """Find out which entries that were sent the targets' replicas have. Raises redis-py's errors.

    Until then they stay in the list: if the target fails over to an older copy, they are sent again.
    """
    if replicas is None:
        outbox.keep_all()
        return
    of_server: dict[int, tuple[redis.Redis, list[str]]] = {}
    for target in outbox.to_keep():
        server = server_of(client, names.received(target))
        of_server.setdefault(id(server), (server, []))[1].append(target)
    for server, targets in of_server.values():
        if not replicas.needed(client, server):
            for target in targets:
                outbox.kept(target, outbox.number_delivered(target))
        elif replicas.may_look(server):
            tails, lasts = replicas.read(client, names, targets[0], [("HGET", names.received(target), outbox.source) for target in targets])
            numbers = [number_of((tail or b"").decode()) for tail in tails]
            if any(number < outbox.number_delivered(target) for target, number in zip(targets, numbers, strict=True)):
                outbox.load(client, replicas)  # a target has lost what it had: send it again
                return
            if lasts or replicas.gave_up(server):
                for target, number in zip(targets, numbers, strict=True):
                    outbox.kept(target, number)


def receive(client: redis.Redis, names: Names, source: str, entries: dict[str, list[Entry]]) -> dict[str, Received | Exception]:
    """Send a source's entries to several targets at once. An error of a server is its target's answer. Raises redis-py's other errors."""
    calls = []
    for target, some in entries.items():
        keys: list[Any] = [names.received(target)]
        words: list[Any] = [source]
        for entry in some:
            declared: list[Any] = []
            declare(msgspec.msgpack.decode(entry.commands), keys, declared)
            words += [entry.before, entry.tail, len(declared), *declared]
        calls.append((keys, words))
    answers = script("receive").run_many(client, calls)
    found: dict[str, Received | Exception] = {}
    for target, answer in zip(entries, answers, strict=True):
        if isinstance(answer, Exception):
            found[target] = answer
        else:
            status, tail, culprit = (word.decode("utf-8", "replace") for word in answer)
            found[target] = Received(cast(Status, status), tail, culprit)
    return found
