"""Sends what a source has read to the partition queues: in order, exactly once, and never beyond the queue limit.

A push is one script that writes messages, dead letters and the source's position atomically. After a lost reply the same push is
sent again; it is idempotent. The source reads nothing while Redis does not answer.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import (
    KeyExtractionError,
    MessageError,
    PartitionError,
    QueueFull,
    describe,
    trace_of,
)
from celery_partitions.model.items import DeadLetterItem
from celery_partitions.producer.bulk import CHUNK_BYTES, CHUNK_MESSAGES
from celery_partitions.producer.message_maker import MessageMaker
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.queue_limit import FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS, Backlog
from celery_partitions.sources.patience import Patience, Stopped
from celery_partitions.store import outbox as store_outbox
from celery_partitions.store.commands import split
from celery_partitions.store.dead_letters import dead_letter_commands
from celery_partitions.store.leases import RENEWALS_PER_LEASE
from celery_partitions.store.names import INGRESS
from celery_partitions.store.replicas import Replicas
from celery_partitions.store.sources import RUN_SECONDS, push_from_source

logger = logging.getLogger("celery.partitions.source")

#: A source pauses while a partition's queue has this many messages, unless `PARTITIONS_QUEUE_MAX_LENGTH` is set. A worker processes
#: them in about a second, and small ones take about 60 MB in Redis.
SOURCE_QUEUE_MESSAGES = 100_000

class Refused(PartitionError):
    """Another process has taken over the source, or Redis lost data. Restart from the position in Redis."""


class Place(Protocol):
    """The source's position in Redis and its lease."""

    #: The Redis key.
    key: str
    #: How many pushes have been written.
    number: int
    #: The lease's fencing token. None: the input cannot be read again (TCP), and there is no lease.
    token: int | None
    #: How long the lease lasts.
    lease_seconds: float

    def renew(self) -> None:
        """Keep the lease. Called during each wait. Raises `Refused`, and redis-py's errors."""
        ...


@dataclass(slots=True)
class Run:
    """The place of one process, for a source that several processes may read at the same time."""

    key: str
    number: int = 0
    token: int | None = None
    lease_seconds: float = RUN_SECONDS

    def renew(self) -> None:
        """There is no lease to renew."""


class Outbox:
    """Filled by `put` and `add_dead_letter`, emptied by `send`."""

    def __init__(self, installation: Installation, computation: Computation, place: Place, patience: Patience) -> None:
        group, limit = installation.group, installation.settings.queue_max_length or SOURCE_QUEUE_MESSAGES
        self.group, self.source, self.place = group, computation.name, place
        self.patience, self.stop = patience, patience.stop
        self.maker = MessageMaker(installation, computation)
        self.backlog = Backlog(group.client, group.names, limit)
        self.limit = min(CHUNK_MESSAGES, limit)
        #: Where the partitions are on other servers: a push appends to this list on the control server, and what is in it is then sent on.
        self._mail: store_outbox.Outbox | None = None
        if group.names.is_spread:
            self._mail = store_outbox.Outbox(group.names, place.key.partition("}:")[2], f"{place.key}:outbox", f"{place.key}:outbox:tails")
        self.replicas = Replicas.of(installation.settings)
        self._pushes: dict[int, list[bytes]] = {}
        self._dead_letters: list[tuple[str, DeadLetterItem]] = []
        self._more: list[list[Any]] = []
        self._bytes = self.count = 0
        #: How many messages have been written to their queues.
        self.sent = 0
        self._said: set[str] = set()

    @property
    def has_something(self) -> bool:
        return bool(self.count or self._more)

    @property
    def is_full(self) -> bool:
        return self.count >= self.limit or self._bytes > CHUNK_BYTES

    def put(self, message: Any, name: bytes, read: Callable[[], bytes]) -> None:
        """Add one message. `name`: its id, already escaped for a JSON string. `read`: returns the bytes it was read from.

        A message that cannot be sent becomes a dead letter; one without a key can be retried. Never raises because of a message,
        whatever its class does; `read` must not raise either.
        """
        now = b"%.6f" % time.time()
        try:
            partition, raw = self.maker.make(message, name, now)
        except KeyExtractionError as error:
            self.add_dead_letter(self._without_key(message, name, now, read), name, error.reason, str(error), trace_of(error))
        except MessageError as error:
            self.add_dead_letter(read(), name, error.reason, str(error), trace_of(error))
        except (Exception, SystemExit) as error:  # raised by the code of the message's class
            self.add_dead_letter(read(), name, "unforeseen", describe(error), trace_of(error))
        else:
            self._pushes.setdefault(partition, []).append(raw)
            self._bytes += len(raw)
            self.count += 1

    def _without_key(self, message: Any, name: bytes, now: bytes, read: Callable[[], bytes]) -> bytes:
        try:
            return self.maker.make_without_key(message, name, now)
        except Exception:  # its key extractor changed the message
            return read()

    def add_dead_letter(self, raw: bytes, name: bytes, reason: str, error: str, trace: str = "") -> None:
        """Add a dead letter of the ingress, with the bytes that were read."""
        if reason not in self._said:
            self._said.add(reason)
            logger.warning(
                "source %r: %s (%s); it became a dead letter of the ingress. Further ones with this reason are not logged",
                self.source,
                error,
                reason,
            )
        name_text = name.decode()
        self._dead_letters.append((f"source-{name_text}", DeadLetterItem(raw, reason, error, trace, self.source, name_text)))
        self._bytes += len(raw)
        self.count += 1

    def add(self, command: list[Any]) -> None:
        """Add a Redis command to the push."""
        self._more.append(command)

    def clear(self) -> None:
        """Discard what was not sent."""
        self._pushes.clear()
        self._dead_letters.clear()
        self._more.clear()
        self._bytes = self.count = 0
        if self._mail is not None:
            self._mail.forget()

    def send(self, position: bytes = b"", *, ends: bool = False) -> None:
        """Write everything to the queues, however long that takes. Raises `Refused`.

        If the process is asked to stop meanwhile: raises `Stopped` if the input can be read again, else redis-py's last error.
        """
        wanted = {str(number): len(raws) for number, raws in self._pushes.items()}
        run, can_be_left = self.patience.run, self.place.token is not None
        run(self.group.check, can_be_left=can_be_left)
        run(lambda: self._wait_for_room(wanted), can_be_left=can_be_left)
        commands, mail = run(self._commands, can_be_left=can_be_left), self._mail
        if mail is not None:
            run(lambda: self._bring(mail), can_be_left=can_be_left)
            commands = mail.pack(commands, keeps=self.place.token is not None)
        run(lambda: self._push(position, commands, ends), can_be_left=can_be_left)
        if mail is not None:
            mail.written()
            run(lambda: self._bring(mail), can_be_left=can_be_left)
        self.place.number += 1
        self.sent += sum(wanted.values())
        self.clear()

    def _bring(self, mail: store_outbox.Outbox) -> None:
        """Send on what is in the list, also what an earlier process left there. Raises redis-py's errors."""
        client, names = self.group.client, self.group.names
        if self.place.token is None:
            mail.begin()  # the input can't be read again, so nobody could go on with a list
        elif not mail.is_loaded:
            mail.load(client)
        while entries := mail.waiting():
            for target, answer in store_outbox.receive(client, names, mail.source, entries).items():
                if isinstance(answer, Exception):
                    raise answer
                if answer.status == "gap" and self.place.token is not None and mail.catch_up(client, self.replicas, target, answer.tail):
                    break
                if answer.status != "ok" or not mail.knows(target, answer.tail):
                    raise redis.ResponseError(f"{target} does not take what source {self.source!r} sends: {answer.status} {answer.culprit}, after {answer.tail or 'none'}")
                mail.delivered(target, answer.tail)
        if self.place.token is not None:
            store_outbox.keep(client, names, mail, self.replicas)
            mail.trim(client, self.place.key, self.place.token)

    def _commands(self) -> list[list[Any]]:
        commands = [
            command
            for number, raws in self._pushes.items()
            for command in split(["LPUSH", self.maker.queues[number]], raws)
        ]
        if self._dead_letters:
            commands += dead_letter_commands(self.group.names, INGRESS, self._dead_letters, self.group.now())
        return commands + self._more

    def _push(self, position: bytes, commands: list[list[Any]], ends: bool) -> None:
        place = self.place
        status, culprit = push_from_source(
            self.group.client,
            place.key,
            place.token,
            place.number,
            position,
            commands,
            lease_seconds=place.lease_seconds,
            ends=ends,
        )
        if status in ("fenced", "moved"):
            raise Refused(f"source {self.source!r}: {'another process reads it now' if status == 'fenced' else 'Redis has lost data (it holds an older position)'}")
        if status == "wrongtype":
            raise redis.ResponseError(f"Redis key {culprit} has the wrong type, or this Redis user may not write it. Delete it, or fix the ACL")

    def _wait_for_room(self, wanted: dict[str, int]) -> None:
        seconds = FIRST_LOOK_SECONDS
        while not (self.stop.requested and self.place.token is None):
            try:
                self.backlog.refuse(wanted)
                break
            except QueueFull:
                self.place.renew()
                if self.stop.wait(seconds * random.uniform(0.5, 1)) and self.place.token is not None:
                    raise Stopped from None
                seconds = min(seconds * 2, LONGEST_LOOK_SECONDS, self.place.lease_seconds / RENEWALS_PER_LEASE)
