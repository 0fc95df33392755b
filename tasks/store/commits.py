"""The commit: one script call, and the script's answer made into a value. `commands.py` makes the commands that it carries."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import redis

from celery_partitions.store.client import UNWELL
from celery_partitions.store.commands import declare, keys_in, refused_keys
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import PRIORITY_SUFFIXES, Names
from celery_partitions.store.replicas import Replicas
from celery_partitions.store.scripts import digest_of, script
from celery_partitions_config.settings import Settings

Status = Literal["ok", "already", "fenced", "moved", "stale", "wrongtype"]


#: A commit that is larger is not sent. Redis closes the connection for a command of 1 GB (`client-query-buffer-limit`), for one word
#: of 512 MB, and for 1,048,576 words.
MAX_COMMIT_BYTES = 256_000_000
MAX_COMMIT_WORDS = 1_000_000
#: No server refuses a commit that is smaller: its limits can't be set lower.
ALWAYS_TAKEN_BYTES = 1_000_000


class CommitTooLarge(Exception):
    """A commit that the server does not take. Fewer messages make a smaller one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The commit script's answer."""

    status: Status
    commit_number: int
    #: Edit version of the states; for `wrongtype` nothing.
    edit_version: int
    #: Seconds since the epoch by the server's clock.
    now: float
    #: When the next delayed message is due, by that clock.
    next_due: float | None
    #: The next batch, oldest first.
    messages: list[bytes]
    #: For `wrongtype`: the key that holds another type, or may not be written.
    culprit: str = ""
    #: An operator, or a policy, has paused the partition: there are no messages.
    paused: bool = False
    #: So many messages are to be run one by one: a worker died over one of them.
    to_isolate: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit, ready to be sent, and to be sent again after a lost reply."""

    lease: Lease
    #: How many commits the partition has had, and its states' edit version, as the worker knows them; None does not ask.
    commit_number: int | None
    edit_version: int | None
    #: The mailbox the messages came from; None: the partition's queue.
    mailbox_of: str | None
    taken: int
    oldest: bytes
    youngest: bytes
    commands: list[list[Any]]
    #: How many messages of the next batch to answer with, at most.
    ask: int


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
        #: What waits until a commit is on replicas; None: nothing does.
        self.replicas = replicas

    @classmethod
    def of(cls, client: redis.Redis, names: Names, settings: Settings) -> CommitStore:
        """As the settings bound batches, and say what replicas are waited for."""
        wanted = settings.wait_replicas
        replicas = Replicas(wanted, settings.wait_milliseconds) if wanted else None
        batch_messages, batch_bytes = settings.batch_messages, settings.batch_bytes
        return cls(client, names, batch_messages=batch_messages, batch_bytes=batch_bytes, replicas=replicas)

    def peek(self, lease: Lease) -> Reply:
        """The partition's commit number and its oldest messages. Moves due and prioritised messages into the queue."""
        return self.send(Commit(lease, None, None, None, 0, b"", b"", [], self.batch_messages))

    def send(self, commit: Commit) -> Reply:
        """Write a commit. Sending the same one again changes nothing and answers `already`."""
        if self.replicas is not None and commit.commit_number is not None:
            self.client.script_load(script("commit").text)
            return self.finish(self.begin(commit))
        try:
            return _reply(script("commit").run(self.client, *self._words(commit)))
        except redis.exceptions.NoPermissionError as refusal:
            return self._send_what_is_permitted(commit, refusal)

    def begin(self, commit: Commit) -> CommitUnderWay:
        """Send a commit and do not wait for its answer; meanwhile another partition's batch can be stepped. Raises `CommitTooLarge`."""
        keys, words = self._words(commit)
        self._check_size(len(words), MAX_COMMIT_WORDS, "words")
        begun = time.perf_counter()
        connection = self.client.connection_pool.get_connection()
        try:
            packed = connection.pack_command("EVALSHA", script("commit").digest, len(keys), *keys, *words)
            self._check_size(sum(map(len, packed)), self.max_bytes, "bytes")
            connection.send_packed_command(packed)
            if self.replicas is not None:
                self.replicas.ask(connection)
        except BaseException:
            connection.disconnect()
            self.client.connection_pool.release(connection)
            raise
        return CommitUnderWay(commit, connection, begun)

    @staticmethod
    def _check_size(size: int, limit: int, of_what: str) -> None:
        if size > limit:
            raise CommitTooLarge(f"a commit of {size:,} {of_what}; at most {limit:,} are sent")

    def is_refused(self, commit: Commit) -> bool:
        """Whether it is the commit on which connections break: it is large, and the server answers otherwise."""
        if sum(len(word) for word in self._words(commit)[1] if isinstance(word, str | bytes)) < ALWAYS_TAKEN_BYTES:
            return False
        try:
            return bool(self.client.ping())
        except UNWELL:
            return False

    def no_lists(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that can't be pushed to: another type, or not this user's."""
        asked = list(keys)
        with self.client.pipeline(transaction=False) as pipe:
            for key in asked:
                pipe.type(key)
            types = pipe.execute(raise_on_error=False)
        return [key for key, found in zip(asked, types, strict=True) if found not in (b"list", b"none")]

    def finish(self, under_way: CommitUnderWay) -> Reply:
        """Wait for the answer of a commit that was begun. After an error the same commit can be sent again."""
        connection = under_way.connection
        try:
            answer = self._read(connection)
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self.client.connection_pool.release(connection)
        match answer:
            case redis.exceptions.NoScriptError():
                return self.send(under_way.commit)  # it has not run
            case redis.exceptions.NoPermissionError():
                return self._send_what_is_permitted(under_way.commit, answer)
            case redis.ResponseError():
                raise answer
            case _:
                return _reply(answer)

    def _send_what_is_permitted(self, commit: Commit, refusal: redis.ResponseError) -> Reply:
        """After the server refused the whole script, because the user may not touch one of its KEYS. Nothing has run.

        Results under a forbidden key are left out, so that a message can't hold up its partition by naming one. For any other key the
        answer is `wrongtype`.
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

    def _read(self, connection: Any) -> Any:
        """The answer, or the server's refusal; nothing more of this commit comes on the connection."""
        try:
            answer: Any = connection.read_response()
        except redis.ResponseError as refusal:
            answer = refusal
        if self.replicas is not None:
            self.replicas.hear(connection)
        return answer

    def _words(self, commit: Commit) -> tuple[list[Any], list[Any]]:
        """The script's KEYS and ARGV."""
        names, partition = self.names, commit.lease.partition
        queue = names.queue(partition)
        source = queue if commit.mailbox_of is None else names.mailbox(partition, commit.mailbox_of)
        keys = [queue, names.meta(partition), names.delayed(partition), source, names.parked(partition)]
        keys += [queue + suffix for suffix in PRIORITY_SUFFIXES]
        words: list[Any] = [
            commit.lease.token,
            "" if commit.commit_number is None else commit.commit_number,
            "" if commit.edit_version is None else commit.edit_version,
            commit.taken,
            digest_of(commit.oldest),
            digest_of(commit.youngest),
            commit.ask,
            self.batch_bytes,
        ]
        declare(commit.commands, keys, words)
        return keys, words


@dataclass(frozen=True, slots=True)
class CommitUnderWay:
    """A commit whose answer is not here yet."""

    commit: Commit
    connection: Any
    #: By `time.perf_counter`.
    begun: float


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
