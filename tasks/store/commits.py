"""The commit: one call of the script `commit`, with its answer as a value. `commands.py` makes the commands inside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import redis

from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.commands import declare, keys_in, refused_keys
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.replicas import Replicas
from celery_partitions.store.scripts import digest_of, script
from celery_partitions.store.servers import lost, server_of
from celery_partitions.store.servers_pipeline import MOVES
from celery_partitions.store.slots import Places
from celery_partitions_config.settings import Settings

Status = Literal["ok", "already", "fenced", "moved", "stale", "wrongtype"]


#: A larger commit is not sent. Redis closes the connection for a command of 1 GB (`client-query-buffer-limit`), for one word of
#: 512 MB, and for 1,048,576 words.
MAX_COMMIT_BYTES = 256_000_000
MAX_COMMIT_WORDS = 1_000_000
#: Due delayed messages in one commit: a script blocks the whole server.
MAX_DUE = 1000
#: No server refuses a smaller commit, because its limits can't be set lower.
ALWAYS_TAKEN_BYTES = 1_000_000


class CommitTooLarge(Exception):
    """The commit is larger than the server accepts. A batch with fewer messages makes a smaller one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The commit script's answer."""

    status: Status
    commit_number: int
    #: Edit version of the states; 0 for `wrongtype`.
    edit_version: int
    #: The server's time, in seconds since the epoch.
    now: float
    #: When the next delayed message is due, by the same clock. None if there is none.
    next_due: float | None
    #: The next batch, oldest first.
    messages: list[bytes]
    #: For `wrongtype`: the key that has the wrong type, or that this user may not write.
    culprit: str = ""
    #: An operator or a policy has paused the partition; `messages` is empty.
    paused: bool = False
    #: The number of messages to run in isolation, because a worker died while it ran one of them.
    to_isolate: int = 0
    #: Replicas have the commit, as far as it had to wait for them.
    lasts: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit. It can be sent again after a lost reply."""

    lease: Lease
    #: The partition's commit number and edit version as the worker knows them. None: the script does not check them.
    commit_number: int | None
    edit_version: int | None
    #: The key whose mailbox the messages came from. None: they came from the partition's queue.
    mailbox_of: str | None
    taken: int
    oldest: bytes
    youngest: bytes
    commands: list[list[Any]]
    #: The maximum number of messages that the answer may contain (the next batch).
    ask: int
    #: It has something for another server.
    sends: bool = False


class CommitStore:
    """Sends commits and peeks, for the worker's loop."""

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        *,
        batch_messages: int,
        batch_bytes: int,
        replicas: Replicas | None = None,
        max_bytes: int = MAX_COMMIT_BYTES,
    ) -> None:
        self.client, self.names, self.max_bytes = client, names, max_bytes
        self.batch_messages, self.batch_bytes = batch_messages, batch_bytes
        #: How many due timers and delayed messages the next commit or peek may move into the queue.
        self.max_due = MAX_DUE
        #: Waits until a commit is on replicas. None: commits do not wait.
        self.replicas = replicas
        #: (partition, whether it has an inbox) → the keys of a commit from its queue.
        self._keys: dict[tuple[str, bool], list[Any]] = {}

    @classmethod
    def of(cls, client: redis.Redis, names: Names, settings: Settings) -> CommitStore:
        """A store with the batch limits and the number of replicas in the settings."""
        batch_messages, batch_bytes = settings.batch_messages, settings.batch_bytes
        return cls(client, names, batch_messages=batch_messages, batch_bytes=batch_bytes, replicas=Replicas.of(settings))

    def peek(self, lease: Lease) -> Reply:
        """Read the partition's commit number and its oldest messages. Moves due and prioritized messages into the queue."""
        return self.send(Commit(lease, None, None, None, 0, b"", b"", [], self.batch_messages))

    def send(self, commit: Commit) -> Reply:
        """Write a commit and wait for the answer. Sending the same commit again changes nothing, and the answer is `already`."""
        if self.replicas is not None and commit.commit_number is not None and (commit.sends or self.replicas.wanted):
            self.client.script_load(script("commit").text)
            return self.finish(self.begin(commit))
        try:
            return _reply(script("commit").run(self.client, *self._words(commit)))
        except redis.exceptions.NoPermissionError as refusal:
            return self._send_what_is_permitted(commit, refusal)

    def begin(self, commit: Commit) -> SentCommit:
        """Send a commit without waiting for the answer, so that another partition's batch can run. Raises `CommitTooLarge`."""
        keys, words = self._words(commit)
        self._check_size(len(words), MAX_COMMIT_WORDS, "words")
        client = server_of(self.client, keys[0])
        count = 0 if self.replicas is None else self.replicas.for_commit(self.client, client, sends=commit.sends)
        try:
            connection: Any = client.connection_pool.get_connection()
        except SERVER_ERRORS:
            lost(self.client, client)
            raise
        try:
            packed = connection.pack_command("EVALSHA", script("commit").digest, len(keys), *keys, *words)
            self._check_size(sum(map(len, packed)), self.max_bytes, "bytes")
            connection.send_packed_command(packed)
            if self.replicas is not None and count:
                self.replicas.ask(connection, count)
        except BaseException:
            connection.disconnect()
            client.connection_pool.release(connection)
            raise
        return SentCommit(commit, connection, client, count)

    @staticmethod
    def _check_size(size: int, limit: int, of_what: str) -> None:
        if size > limit:
            raise CommitTooLarge(f"the commit has {size:,} {of_what}; the limit is {limit:,}")

    def is_refused(self, commit: Commit) -> bool:
        """Whether connections break because of this commit: it is large, and the server answers other commands."""
        if sum(len(word) for word in self._words(commit)[1] if isinstance(word, str | bytes)) < ALWAYS_TAKEN_BYTES:
            return False
        try:
            return bool(server_of(self.client, self.names.queue(commit.lease.partition)).ping())
        except SERVER_ERRORS:
            return False

    def no_lists(self, keys: Iterable[str]) -> list[str]:
        """The keys that can't be pushed to, because they have another type or this user may not read them."""
        wanted = list(keys)
        with self.client.pipeline(transaction=False) as pipe:
            for key in wanted:
                pipe.type(key)
            types = pipe.execute(raise_on_error=False)
        return [key for key, found in zip(wanted, types, strict=True) if found not in (b"list", b"none")]

    def finish(self, sent: SentCommit) -> Reply:
        """Wait for the answer to a commit that `begin` sent. After an error, the same commit can be sent again."""
        connection = sent.connection
        try:
            answer, lasts = self._read(sent)
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, SERVER_ERRORS):
                lost(self.client, sent.client)
            raise
        finally:
            sent.client.connection_pool.release(connection)
        match answer:
            case redis.exceptions.NoScriptError():
                return self.send(sent.commit)  # it has not run
            case answer if self.names.is_spread and isinstance(answer, MOVES):
                return self.send(sent.commit)  # it has not run: the slot has moved, or is being moved
            case redis.exceptions.NoPermissionError():
                return self._send_what_is_permitted(sent.commit, answer)
            case redis.ResponseError():
                raise answer
            case _:
                return replace(_reply(answer), lasts=True) if lasts else _reply(answer)

    def _send_what_is_permitted(self, commit: Commit, refusal: redis.ResponseError) -> Reply:
        """Send a commit again without the keys that this user may not access. The server refused the first try, and nothing has run.

        Celery results under a forbidden key are left out, so that a message can't block its partition by naming one. For any other
        forbidden key the answer is `wrongtype`.
        """
        refused = refused_keys(self.client, commit.commands)
        if not refused:
            raise refusal
        kept = []
        for command in commit.commands:
            forbidden = next((key for key in keys_in(command) if key in refused), None)
            if forbidden is None:
                kept.append(command)
            elif command[0] != "REPLY":
                reply = self.peek(commit.lease)
                name = forbidden.decode("utf-8", "replace") if isinstance(forbidden, bytes) else forbidden
                return replace(reply, status="wrongtype", culprit=name, messages=[]) if reply.status == "ok" else reply
        return self.send(replace(commit, commands=kept))

    def _read(self, sent: SentCommit) -> tuple[Any, bool]:
        """The answer, or the error that the server returned, and whether replicas have it. Reads everything about this commit from the
        connection."""
        try:
            answer: Any = sent.connection.read_response()
        except redis.ResponseError as refusal:
            answer = refusal
        if self.replicas is None or not sent.waits_for:
            return answer, False
        return answer, self.replicas.read_answer(sent.connection, sent.client, sent.waits_for)

    def _words(self, commit: Commit) -> tuple[list[Any], list[Any]]:
        """The script's KEYS and ARGV."""
        partition = commit.lease.partition
        known = self._keys.get((partition, commit.lease.inbox))
        keys = list(self._keys_of(commit.lease) if known is None else known)
        if commit.mailbox_of is not None:
            keys[3] = self.names.mailbox(partition, commit.mailbox_of)
        words: list[Any] = [
            commit.lease.token,
            "" if commit.commit_number is None else commit.commit_number,
            "" if commit.edit_version is None else commit.edit_version,
            commit.taken,
            digest_of(commit.oldest),
            digest_of(commit.youngest),
            commit.ask,
            self.batch_bytes,
            self.max_due,
        ]
        if commit.commands:
            declare(commit.commands, keys, words)
        if self.names.is_spread:
            refuse_other_servers(self.names, partition, keys)
        return keys, words

    def _keys_of(self, lease: Lease) -> list[Any]:
        names, partition = self.names, lease.partition
        queue = names.inbox(partition) if lease.inbox else names.queue(partition)
        keys = [queue, names.meta(partition), names.delayed(partition), queue, names.parked(partition)]
        # `admit` moves what has a priority, so that it waits as well: here stand names of no lists.
        keys += [f"{queue}:{number}" for number in range(3)] if lease.inbox else names.priority_lists(partition)
        return self._keys.setdefault((partition, lease.inbox), keys)


@dataclass(frozen=True, slots=True)
class SentCommit:
    """A commit that was sent and not yet answered."""

    commit: Commit
    connection: Any
    #: The client of the partition's server.
    client: redis.Redis
    #: How many replicas.
    waits_for: int = 0


def refuse_other_servers(names: Names, partition: str, keys: Iterable[str | bytes]) -> None:
    """Raise `redis.ResponseError`, as a cluster does, if a script's keys are not all in the partition's slot."""
    places = Places(names.root)
    own = places.slot(names.queue(partition))
    for key in keys:
        if places.slot(key) != own:
            name = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
            raise redis.ResponseError(f"{name!r} is on another server than partition {partition} (PARTITIONS_URL)")


def _reply(answer: list[Any]) -> Reply:
    status, at, edits, now, next_due, paused, to_isolate, *messages = answer
    status = status.decode()
    wrong = status == "wrongtype"
    return Reply(
        status=cast(Status, status),
        commit_number=int(at),
        edit_version=0 if wrong else int(edits),
        now=now / 1000,
        next_due=None if next_due < 0 else next_due / 1000,
        messages=messages,
        culprit=edits.decode("utf-8", "replace") if wrong else "",
        paused=bool(paused),
        to_isolate=to_isolate,
    )
