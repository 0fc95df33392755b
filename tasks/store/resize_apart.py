"""A resize where partitions are on several servers (`PARTITIONS_URL`), so that no script sees two of them. The rules that replace one script:

1. What a commit sends to other partitions arrives in order (`Outbox.order`): a message by the new number never overtakes one by the former.
2. A partition follows a topology (`epoch`) only once all that it has sent before has arrived. So it sends nothing by an older one then.
3. A partition's keys leave in commits, through its outbox, only once their targets follow the topology. They have moved (`moved`) once they have
   arrived. A partition that gets keys works only once its sources have moved.
4. A partition whose move was interrupted by an abort finishes it first.
5. Messages in the queue of a partition that gets keys are counted before those of its sources. They are admitted once its sources have taken what
   they had then, and what they have sent on has arrived.
6. A resize is undone only if it is to more partitions, and while keys move: until then nobody sends by the new number. A partition that loses
   its keys again also sends its inbox back. What is in the queue of one that gets them back comes next, and then what others still send back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import redis

from celery_partitions.model.topology import Topology
from celery_partitions.store.commands import split
from celery_partitions.store.commits import Commit, CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names, partitions_and_ingress, queue_lists
from celery_partitions.store.outbox import Outbox, number_of
from celery_partitions.store.scripts import digest_of, script

#: Records, or messages of mailboxes, in one commit, and bytes, approximately.
PAGE, PAGE_BYTES = 1000, 4_000_000
#: Messages of a mailbox that are read first: they may be long.
FIRST_MESSAGES = 10
#: How often `have_arrived` looks again: what is sent takes a few round trips to arrive.
LOOKS = 50


Note = Literal["epoch", "moved", "returned"]


class Look(NamedTuple):
    """The answer to `look_at_lists`."""

    removed: int
    left: int
    #: The number of the last entry in its outbox for a partition.
    sent: int
    moved: int
    passed_on: int
    marked: int


class Record(NamedTuple):
    """Something that leaves one Redis key for another, as `move_keys.lua` takes it."""

    what: str
    words: Sequence[Any]
    old: Any
    new: Any


def note_progress(client: redis.Redis, names: Names, lease: Lease, topology: Topology, what: Note, epoch: int) -> Literal["ok", "fenced"]:
    """Note that a partition follows the topology of an epoch, that its keys have arrived, or that an undone resize has brought its keys back."""
    partition = lease.partition
    waits = what == "epoch" and bool(partition.isdigit() and topology.sources(int(partition)))
    keys = [names.meta(partition), names.queue(partition), names.inbox(partition)]
    status = script("follow_alone").run(client, keys, [lease.token, epoch, what, "wait" if waits else ""]).decode()
    if status == "ok" and what == "moved" and epoch == topology.epoch:
        note_moved(client, names, partition, topology)
    return cast(Literal["ok", "fenced"], status)


def note_moved(client: redis.Redis, names: Names, partition: str, topology: Topology) -> None:
    """Note on the control server that all keys of a partition have moved: when all have, messages are sent by the new number."""
    if partition.isdigit():
        script("note_moved").run(client, [names.group_meta, names.moved], [topology.epoch, partition, topology.served, names.changed])


def look_at(client: redis.Redis, names: Names, partitions: Iterable[str], target: str = "", mark: str = "") -> list[Look]:
    """How far partitions have got on. `target`: whose entries in their outboxes are meant. `mark`: see `lua/look_at_lists.lua`."""
    calls: list[tuple[list[Any], list[Any]]] = [
        ([names.meta(one), names.outbox_tails(one), names.inbox(one), *queue_lists(names, one)], [target, mark]) for one in partitions
    ]
    found = []
    for answer in script("look_at_lists").run_many(client, calls):
        if isinstance(answer, Exception):
            raise answer
        removed, left, sent, moved, passed_on, marked = answer
        found.append(Look(removed, left, number_of(sent.decode()), moved, passed_on, marked))
    return found


def follow_already(client: redis.Redis, names: Names, partitions: Iterable[int], epoch: int) -> bool:
    """Whether partitions follow the topology of an epoch."""
    with client.pipeline(transaction=False) as pipe:
        for one in partitions:
            pipe.hget(names.meta(str(one)), "epoch")
        return all(int(found or 0) >= epoch for found in pipe.execute())


def have_arrived(client: redis.Redis, names: Names, partitions: Sequence[str]) -> bool:
    """Whether what partitions have sent to others until now has arrived."""
    with client.pipeline(transaction=False) as pipe:
        for one in partitions:
            pipe.hgetall(names.outbox_tails(one))
        tails = pipe.execute()
    sent = {
        (source, target.decode()): number_of(tail.decode())
        for source, found in zip(partitions, tails, strict=True)
        for target, tail in found.items()
        if target.isdigit()
    }
    for _ in range(LOOKS):
        with client.pipeline(transaction=False) as pipe:
            for source, target in sent:
                pipe.hget(names.received(target), source)
            found = pipe.execute()
        sent = {pair: number for (pair, number), tail in zip(sent.items(), found, strict=True) if number_of((tail or b"").decode()) < number}
        if not sent:
            return True
    return False


def finish_resize(
    client: redis.Redis, names: Names, topology: Topology, audit: Sequence[Any], said: str, quiet_seconds: float
) -> tuple[Literal["ok", "changed", "moving", "busy", "passing"], int]:
    """As `resize.finish_resize`."""
    partitions = partitions_and_ingress(topology.served)
    (epoch, former, resized, settled), now = _read_group(client, names)
    if former is None or int(epoch or 0) != topology.epoch:
        return "changed", 0
    looks = look_at(client, names, partitions)
    for number, look in enumerate(looks):
        if look.moved < topology.epoch:
            return "moving", number
    last = max(int(resized or 0), int(settled or 0), *(look.passed_on for look in looks))
    since = now - (int(settled or resized or 0) if said else last)
    if since < quiet_seconds * 1000:
        return ("passing", 0) if said else ("busy", round(since))
    for number, look in enumerate(look_at(client, names, partitions, mark=f"{topology.epoch}:{said or last}")):
        if look.left and look.removed < look.marked:
            return "passing", number
    if not have_arrived(client, names, partitions):
        return "passing", 0
    words = [topology.epoch, said, round(quiet_seconds * 1000), names.changed, *audit]
    status, *more = script("finish_resize").run(client, [names.group_meta, names.audit], words)
    return status.decode(), more[0] if more else 0


def _read_group(client: redis.Redis, names: Names) -> tuple[list[bytes | None], float]:
    with client.pipeline(transaction=False) as pipe:
        pipe.hmget(names.group_meta, ["epoch", "former", "resized", "settled"])
        pipe.time()
        found, (seconds, micros) = pipe.execute()
    return found, seconds * 1000 + micros / 1000


class Refused(Exception):
    """A commit with keys that leave was refused. `status`: the answer."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Removal:
    """Writes the commits in which a partition's keys leave: what is deleted here is in the outbox, in the same commit."""

    def __init__(self, client: redis.Redis, names: Names, store: CommitStore, lease: Lease, outbox: Outbox) -> None:
        self.client, self.names, self.store, self.lease, self.outbox = client, names, store, lease, outbox
        number, edits = cast(list["bytes | None"], client.hmget(names.meta(lease.partition), ["commit_number", "edit_version"]))
        self._number, self._edits = int(number or 0), int(edits or 0)
        self._commands: list[list[Any]] = []
        self._bytes = self._messages = 0

    def move(self, moves: Mapping[int, Sequence[Record]]) -> None:
        """Move records, by target. Mailboxes leave first: what finds them again is their key's record. Raises `Refused` and redis-py's errors."""
        records = [record for some in moves.values() for record in some]
        for record in records:
            if record.what == "list":
                self._move_list(record.old, record.new)
        others = [record for record in records if record.what != "list"]
        with self.client.pipeline(transaction=False) as pipe:
            for record in others:
                self._read(pipe, record)
            answers = iter(pipe.execute())
        for record in others:
            self._move_record(record, answers)
        self._write()

    def _read(self, pipe: redis.client.Pipeline, record: Record) -> None:
        match record.what:
            case "hash" | "raise":
                pipe.hmget(record.old, list(record.words))
            case "put":
                pipe.hexists(record.old, record.words[0])
            case "zset":
                for member in record.words:
                    pipe.zscore(record.old, member)
            case "set":
                pipe.pttl(record.old)
            case _:
                raise ValueError(record.what)

    def _move_record(self, record: Record, answers: Any) -> None:
        words, old, new, commands = record.words, record.old, record.new, self._commands
        match record.what:
            case "hash":
                found = {field: value for field, value in zip(words, next(answers), strict=True) if value is not None}
                commands += split(["HDEL", old], found)
                commands += split(["HSET", new], (word for pair in found.items() for word in pair))
            case "raise":
                commands += (["RAISE", new, field, value] for field, value in zip(words, next(answers), strict=True) if value is not None)
            case "put":
                if next(answers):
                    commands += ["HDEL", old, words[0]], ["HSET", new, *words]
            case "zset":
                scores = {member: score for member in words if (score := next(answers)) is not None}
                commands += split(["ZREM", old], scores)
                commands += split(["ZADD", new], (word for member, score in scores.items() for word in (score, member)))
            case "set":
                milliseconds = next(answers)
                commands += split(["SADD", new], words)
                commands.append(["LIVE", new, max(milliseconds, 1)])

    def _move_list(self, old: Any, new: Any) -> None:
        """Move a mailbox: its oldest messages first."""
        count = FIRST_MESSAGES
        while raws := cast(list[bytes], self.client.lrange(old, -count, -1))[::-1]:
            self._commands += [["SHORTEN", old, len(raws), digest_of(raws[0]), digest_of(raws[-1])], *split(["LPUSH", new], raws)]
            size = sum(map(len, raws))
            self._bytes, self._messages = self._bytes + size, self._messages + len(raws)
            if len(raws) == count or self._bytes > PAGE_BYTES or self._messages >= PAGE:
                self._write()
            if len(raws) < count:
                break
            count = max(1, min(PAGE, PAGE_BYTES * len(raws) // max(size, 1)))

    def _write(self) -> None:
        commands, self._commands = self._commands, []
        self._bytes = self._messages = 0
        if not commands:
            return
        packed = self.outbox.pack(commands)
        reply = self.store.send(Commit(self.lease, self._number, self._edits, None, 0, b"", b"", packed, 0, sends=self.outbox.is_packed))
        if reply.status == "wrongtype":
            raise redis.ResponseError(f"Redis key {reply.culprit!r} has the wrong type, or this Redis user may not write it. Delete it, or fix the ACL")
        if reply.status not in ("ok", "already"):
            raise Refused(reply.status)
        self._number = reply.commit_number
        self.outbox.written(lasts=reply.lasts)
