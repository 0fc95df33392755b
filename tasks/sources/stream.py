"""A Redis stream as a source: entries are acknowledged in the script that enqueues their messages."""

from __future__ import annotations

from typing import Any

import msgspec
import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import describe, trace_of
from celery_partitions.model.message_writer import escape, json_text
from celery_partitions.pipeline.sources import StreamSource
from celery_partitions.runtime.installation import Installation
from celery_partitions.sources.leased_source import Filled
from celery_partitions.sources.outbox import Outbox, Refused
from celery_partitions.sources.patience import Patience
from celery_partitions.sources.stop_signal import Stop
from celery_partitions.store.commands import split
from celery_partitions.store.sources import Entry, make_group, read_stream

#: The longest wait for new entries, so that the process stops soon after it was asked to.
WAIT_SECONDS = 0.5

NEW = b">"


class StreamReader:
    """Reads by a consumer group. A message's id is the source's name and the entry's id. The position is the last entry's id."""

    def __init__(self, installation: Installation, computation: Computation, config: StreamSource, stop: Stop) -> None:
        self.name, self.stream, self.field = computation.name, config.stream, config.field
        self.group, self.stop = installation.group, stop
        self.patience = Patience(self.name, stop)
        self.token, self.after, self.last = 0, b"0", b""
        #: `wait` waits for entries after this one.
        self.watched = b"0"

    def begin(self, position: bytes, token: int) -> None:
        self.token, self.after, self.last = token, b"0", position
        self.watched = position or b"0"
        self.patience.run(lambda: make_group(self.group.client, self.stream, self.name), can_be_left=True)

    def fill(self, outbox: Outbox) -> Filled:
        entries = self.patience.run(lambda: self.read(outbox.limit), can_be_left=True)
        if not entries:
            if self.after != NEW:  # no entries of an earlier process are left unacknowledged
                self.after = NEW
                return "more"
            return "wait"
        taken: list[bytes] = []
        try:
            for entry_id, fields in entries:
                if fields is not None:
                    self.take(entry_id, fields, outbox)
                taken.append(entry_id)
        finally:  # after an exception the outbox is still sent: without the acknowledgements its entries would be read twice
            self.done(taken, outbox)
        return "more"

    def done(self, taken: list[bytes], outbox: Outbox) -> None:
        """Acknowledge entries, in the push that sends their messages."""
        if not taken:
            return
        self.last = self.watched = taken[-1]
        if self.after != NEW:
            self.after = self.last
        for command in split(["XACK", self.stream, self.name], taken):
            outbox.add(command)

    def read(self, limit: int) -> list[Entry]:
        try:
            entries = read_stream(self.group.client, self.group.names, self.name, self.token, self.stream, limit, self.after)
        except redis.ResponseError as error:
            if "NOGROUP" in str(error):
                raise Refused(f"source {self.name!r}: the stream {self.stream} and its consumer group are gone") from error
            raise
        if entries is None:
            raise Refused(f"source {self.name!r}: another process reads it now")
        return entries

    def take(self, entry_id: bytes, fields: list[bytes], outbox: Outbox) -> None:
        pairs = dict(zip(fields[::2], fields[1::2], strict=True))
        name = escape(f"{self.name}:{entry_id.decode()}")
        try:
            message = self.message_in(pairs)
        except Exception as error:  # also RecursionError from deep nesting. No user code runs here: SystemExit comes from a signal
            outbox.add_dead_letter(shown(pairs), name, "not-decoded", f"cannot decode entry {entry_id.decode()} of stream {self.stream}: {describe(error)}", trace_of(error))
        else:
            outbox.put(message, name, lambda: shown(pairs))

    def message_in(self, pairs: dict[bytes, bytes]) -> Any:
        if self.field is None:
            return {field.decode(): value.decode() for field, value in pairs.items()}
        return msgspec.json.decode(pairs[self.field.encode()])

    def position(self) -> bytes:
        return self.last

    def wait(self, seconds: float) -> None:
        """Wait for a new entry, without delivering it to the consumer group."""
        block = max(1, round(min(seconds, WAIT_SECONDS) * 1000))
        client = self.group.client
        found = self.patience.run(lambda: client.xread({self.stream: self.watched}, count=1, block=block), can_be_left=True)
        if found:  # if the group already had it (the position key was deleted), this XREAD must not find it forever
            self.watched = b"$"


def shown(pairs: dict[bytes, bytes]) -> bytes:
    """An entry as JSON. Bytes that are not UTF-8 are escaped."""
    return json_text({name.decode("utf-8", "backslashreplace"): value.decode("utf-8", "backslashreplace") for name, value in pairs.items()})
