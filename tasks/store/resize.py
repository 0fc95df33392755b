"""A resize in Redis: the group's topology, the keys that move between partitions, and the messages that wait until older ones have passed.

On one server a key moves in one script. Between servers it moves through the partition's outbox (`resize_apart.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import msgspec
import redis

from celery_partitions.model.keys import key_text
from celery_partitions.model.own_lines import key_and_computation
from celery_partitions.model.task_lines import partition_of_line
from celery_partitions.model.topology import Topology
from celery_partitions.store import resize_apart
from celery_partitions.store.dead_letters import DeadLetter, dump_dead_letter
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import INGRESS, Names, partitions_and_ingress, queue_lists
from celery_partitions.store.outbox import number_of
from celery_partitions.store.parked_keys import read_record
from celery_partitions.store.resize_apart import Record, Refused, Removal
from celery_partitions.store.scripts import script
from celery_partitions.store.topology import RESIZED_LAYOUT

#: Keys, or message ids, that one script moves: a few milliseconds of the server's time.
PAGE = 1000
#: Bytes of records that one script moves, approximately.
PAGE_BYTES = 4_000_000
#: Messages that one script admits.
ADMIT_MESSAGES = 5000

Status = Literal["ok", "fenced", "changed", "open"]
_SEEN = "seen:"
#: A resize is finished once no message was sent for the former number of partitions for this long.
QUIET_SECONDS = 600.0
#: An operator finishes a resize at the earliest so long after the keys have moved: our own producers know it by then (`FOLLOW_SECONDS` in runtime/group.py).
SETTLED_SECONDS = 7.0


def note_epoch(client: redis.Redis, names: Names, worker: str, epoch: int) -> None:
    """Note that a worker follows the topology of this epoch. A worker without a note runs an older release, which cannot."""
    client.hset(names.epochs, worker, epoch)


def begin_resize(
    client: redis.Redis, names: Names, topology: Topology, partitions: int, audit: Sequence[Any], *, back: bool = False
) -> tuple[Literal["ok", "changed", "old", "late"], str]:
    """Give the group another number of partitions. `topology`: as the caller knows it. `audit`: from `Audit.words`. `back`: it undoes a resize. Returns "ok" and the new epoch,
    "changed" if the topology is another by now, "old" and a worker of a release that cannot follow, or "late": keys have moved to fewer partitions, or, on several servers, all keys have moved,
    which only a resize after this one undoes."""
    new = Topology(topology.epoch + 1, partitions, topology.partitions, topology.served)
    keys = [names.group_meta, names.workers, names.epochs, names.audit]
    letters = ""
    for number in range(0 if names.is_spread else partitions):
        if sources := new.sources(number):
            takes_back = back and partitions < topology.partitions
            for one in sources if takes_back else ():
                keys += _lists(names, str(one))
            keys += _lists(names, str(number))
            letters += "l" * len(sources) + "g" if takes_back else "f" if back else "g"
    words = [topology.epoch, partitions, topology.partitions, max(new.served, topology.highest), RESIZED_LAYOUT, names.changed, ("while moving" if names.is_spread else "back") if back else "", letters, *audit, new.served]
    status, *what = script("begin_resize").run(client, keys, words)
    return status.decode(), what[0].decode("utf-8", "replace") if what else ""


def _lists(names: Names, partition: str) -> list[str]:
    """The keys of a partition's messages, as these scripts take them."""
    queue, *priorities = queue_lists(names, partition)
    return [names.meta(partition), queue, names.inbox(partition), *priorities]


def finish_resize(
    client: redis.Redis, names: Names, topology: Topology, audit: Sequence[Any] = ("", "", "", ""), *, said: str = "", quiet_seconds: float = QUIET_SECONDS
) -> tuple[Literal["ok", "changed", "moving", "busy", "passing"], int]:
    """Finish a resize whose keys have moved, if no message for the former number was passed on for some time. `said`: an id, the same until the
    answer is no longer "passing": an operator says that no producer sends for that number any more.

    Returns "moving" with a partition whose keys have not moved, "busy" with the ms since the last such message, or "passing" with a partition that
    may still have some."""
    if names.is_spread:
        return resize_apart.finish_resize(client, names, topology, audit, said, quiet_seconds)
    partitions = partitions_and_ingress(topology.served)
    keys = [names.group_meta, names.audit, *(key for partition in partitions for key in _lists(names, partition))]
    status, *more = script("finish_resize").run(client, keys, [topology.epoch, said, round(quiet_seconds * 1000), names.changed, *audit])
    return status.decode(), more[0] if more else 0


class NotMoved(Exception):
    """The keys of a partition cannot move now. `status`: why, as in `lua/move_keys.lua`."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Place:
    """How far a partition has followed the group's topology."""

    #: The epoch by which its keys are applied, and the one up to which its keys for other partitions have left.
    epoch: int
    moved: int
    #: The epoch of the group's topology.
    newest: int
    #: All keys of other partitions that belong here have come.
    is_complete: bool
    #: Whether it has an inbox that is not empty.
    has_inbox: bool


def read_place(client: redis.Redis, names: Names, partition: str, topology: Topology, number: int | None) -> Place:
    """Read how far a partition has followed `topology`, in one round trip. `number`: the partition's; None for the ingress."""
    sources = topology.sources(number)
    with client.pipeline(transaction=False) as pipe:
        pipe.hmget(names.meta(partition), ["epoch", "moved"])
        pipe.exists(names.inbox(partition))
        pipe.hget(names.group_meta, "epoch")
        for source in sources:
            pipe.hget(names.meta(str(source)), "moved")
        (epoch, moved), has_inbox, newest, *moved_there = pipe.execute()
    is_complete = all(int(one or 0) >= topology.epoch for one in moved_there)
    return Place(int(epoch or 0), int(moved or 0), int(newest or 0), is_complete, bool(has_inbox))


def note_progress(client: redis.Redis, names: Names, lease: Lease, epoch: int, what: Literal["epoch", "moved"]) -> Status:
    """Note that the partition follows the topology of this epoch, or that its keys for other partitions have left."""
    keys = [names.meta(lease.partition), names.group_meta]
    words = [lease.token, epoch, what, names.changed, int(lease.partition != INGRESS)]
    return cast(Status, script("follow_topology").run(client, keys, words).decode())


@dataclass(frozen=True, slots=True)
class Admitted:
    """The answer to `admit`."""

    #: Messages that were moved to the inbox now; that are left in the queue; and that are in the inbox.
    admitted: int
    waiting: int
    ready: int
    #: On several servers only if messages wait.
    sources: Mapping[int, Source]


class Source(NamedTuple):
    """How far a source of a partition is: how many messages were taken from it so far, and how many it has."""

    removed: int
    left: int
    #: On several servers: the number of the last entry that it sent here, and of the last one that has arrived.
    sent: int = 0
    arrived: int = 0


def admit(client: redis.Redis, names: Names, lease: Lease, sources: Sequence[int], count: int) -> Admitted | None:
    """Move the `count` oldest messages of a partition's queue to its inbox; all, if its sources have no message. None: the lease is gone."""
    apart = names.is_spread and bool(sources)
    keys = [key for partition in (lease.partition, *(() if apart else map(str, sources))) for key in _lists(names, partition)]
    answer = script("admit").run(client, keys, [lease.token, count, ADMIT_MESSAGES, int(apart)])
    if answer[0] < 0:
        return None
    admitted, waiting, ready, *rest = answer
    if not apart:
        return Admitted(admitted, waiting, ready, dict(zip(sources, map(Source, rest[::2], rest[1::2]), strict=True)))
    if not waiting:
        return Admitted(admitted, waiting, ready, {})
    # Read after the messages here were counted: older ones are there, or were.
    looks = resize_apart.look_at(client, names, map(str, sources), target=lease.partition)
    arrived = cast(list["bytes | None"], client.hmget(names.received(lease.partition), list(map(str, sources))))
    of_source = zip(sources, looks, arrived, strict=True)
    return Admitted(admitted, waiting, ready, {one: Source(look.removed, look.left, look.sent, number_of((tail or b"").decode())) for one, look, tail in of_source})


def move_keys(
    client: redis.Redis, names: Names, lease: Lease, topology: Topology, known: Iterable[str], removal: Removal | None = None
) -> Iterator[int]:
    """Move all keys of a partition that belong elsewhere by `topology`, with what belongs to them. Yields after each script the number of states
    that moved. Raises `NotMoved`. `known`: the computations of this process; the group knows those that ever ran. It can be done again from the beginning at any point.
    `removal`: on several servers, what writes the commits; the keys have left then, and arrive when the outbox is sent.
    """
    number = int(lease.partition)
    targets = [one for one in range(topology.partitions) if number in topology.sources(one)]
    if not targets:
        return
    if removal is not None and not resize_apart.follow_already(client, names, targets, topology.epoch):
        raise NotMoved("open")
    mover = _Mover(client, names, lease, topology, removal)
    ever = Names.computations_in(cast(list[bytes], client.hkeys(names.group_meta)))
    computations = sorted({*known, *ever})
    meta = [field.decode("utf-8", "surrogateescape") for field in cast(list[bytes], client.hkeys(names.meta(lease.partition)))]
    fields = [field for field in meta if field != Names.computation_of_version(field) or field.startswith(_SEEN)]
    for target in targets:
        if fields:
            mover.add(target, "raise", fields, names.meta(lease.partition), names.meta(str(target)))
        if removal is not None and topology.is_back:
            mover.add(target, "list", (), names.inbox(lease.partition), names.inbox(str(target)))
    mover.send()
    yield 0
    for computation in computations:
        yield from mover.copy_ids(computation, targets)
        yield from mover.move_rates(computation)
    yield from mover.move_parked()
    for computation in computations:
        yield from mover.move_states(computation)


class _Mover:
    """Collects the commands for each target, and sends them."""

    def __init__(self, client: redis.Redis, names: Names, lease: Lease, topology: Topology, removal: Removal | None) -> None:
        self.client, self.names, self.lease, self.topology, self.removal = client, names, lease, topology, removal
        self.here, self.number = lease.partition, int(lease.partition)
        self._moves: dict[int, list[Record]] = defaultdict(list)

    def add(self, target: int, what: str, words: Sequence[Any], old: Any, new: Any) -> None:
        self._moves[target].append(Record(what, words, old, new))

    def send(self) -> None:
        moves, self._moves = self._moves, defaultdict(list)
        if self.removal is not None:
            try:
                self.removal.move(moves)
            except Refused as refusal:
                raise NotMoved("fenced" if refusal.status == "fenced" else "changed") from None
            return
        for target, records in moves.items():
            is_new = "new" if target >= (self.topology.former or 0) else ""
            keys = [self.names.meta(self.here), self.names.group_meta, self.names.meta(str(target))]
            words: list[Any] = [self.lease.token, self.topology.epoch, is_new]
            for record in records:
                keys += record.old, record.new
                words += record.what, len(record.words), *record.words
            status = script("move_keys").run(self.client, keys, words).decode()
            if status != "ok":
                raise NotMoved(status)

    def place_of(self, key: bytes) -> int:
        """The partition of a key, or of an own line. A task's line stays where it is: its messages are passed on when it ends."""
        text = key_text(key)
        if partition_of_line(text) is not None:
            return self.number
        return self.topology.partition_of(key_and_computation(text)[0])

    def copy_ids(self, computation: str, targets: Sequence[int]) -> Iterator[int]:
        names = self.names
        for age in ("young", "old"):
            ids = names.deduplication(self.here, computation, cast(Any, age))
            for page in _pages(self.client.sscan_iter(ids, count=PAGE)):
                for target in targets:
                    self.add(target, "set", page, ids, names.deduplication(str(target), computation, cast(Any, age)))
                self.send()
                yield 0

    def move_rates(self, computation: str) -> Iterator[int]:
        names = self.names
        rates = names.rates(self.here, computation)
        if not self.client.zcard(rates):
            return
        for page in _pages(member for member, _ in self.client.zscan_iter(rates, count=PAGE)):
            for target, members in self._sorted(page, lambda member: member.removesuffix(b"\0line")).items():
                self.add(target, "zset", members, rates, names.rates(str(target), computation))
            self.send()
            yield 0

    def move_parked(self) -> Iterator[int]:
        names, here = self.names, self.here
        for page in _pages(self._scan(names.parked(here))):
            for target, keys in self._sorted([key for key, _ in page], bytes).items():
                there = str(target)
                self.add(target, "hash", keys, names.parked(here), names.parked(there))
                self.add(target, "zset", keys, names.parked_due(here), names.parked_due(there))
                for key in keys:
                    text = key_text(key)
                    self.add(target, "list", (), names.mailbox(here, text), names.mailbox(there, text))
                moved = set(keys)
                ids = [one.dead_letter for key, record in page if key in moved and (one := read_record(record)).dead_letter is not None]
                self._move_dead_letters(ids, target)
            self.send()
            yield 0

    def _move_dead_letters(self, ids: Sequence[str], target: int) -> None:
        """Those of messages that are still in their key's mailbox."""
        dead = self.names.dead(self.here)
        if not ids:
            return
        for one, row in zip(ids, cast(list[bytes | None], self.client.hmget(dead, list(ids))), strict=True):
            if row is not None:
                try:
                    record = msgspec.json.decode(row, type=DeadLetter)
                except (msgspec.DecodeError, UnicodeDecodeError):  # not written by us
                    continue
                record.partition = str(target)
                self.add(target, "put", (one, dump_dead_letter(record)), dead, self.names.dead(str(target)))

    def move_states(self, computation: str) -> Iterator[int]:
        states = self.names.states(self.here, computation)
        for page in _pages(self._scan(states)):
            moving = self._sorted([key for key, _ in page], bytes)
            for target, keys in moving.items():
                self.add(target, "hash", keys, states, self.names.states(str(target), computation))
            self.send()
            yield sum(map(len, moving.values()))

    def _scan(self, hash_key: str) -> Iterator[tuple[bytes, bytes]]:
        """The fields and values of a hash, in pages of a bounded size. What is removed meanwhile does no harm."""
        cursor, count = 0, 100
        while True:
            cursor, rows = cast(tuple[int, dict[bytes, bytes]], self.client.hscan(hash_key, cursor, count=count))
            yield from rows.items()
            if cursor == 0:
                return
            size = sum(map(len, rows.values())) // max(len(rows), 1) or 1
            count = max(1, min(PAGE, PAGE_BYTES // size))

    def _sorted(self, keys: Iterable[bytes], key_of: Any) -> dict[int, list[bytes]]:
        """The keys that leave, by the partition that they go to."""
        found: dict[int, list[bytes]] = defaultdict(list)
        for key in keys:
            target = self.place_of(key_of(key))
            if target != self.number:
                found[target].append(key)
        return found


def _pages(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Pages with at most `PAGE` rows, and not many more bytes than `PAGE_BYTES`."""
    page: list[Any] = []
    size = 0
    for row in rows:
        page.append(row)
        size += len(row[1]) if isinstance(row, tuple) else len(row)
        if len(page) >= PAGE or size > PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page
