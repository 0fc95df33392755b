"""The file that `export` writes and `import` reads: JSON lines, bytes in base64.

The first line is the `Header`, then come the records of each partition, with lists from oldest to newest. The last line is `End`,
which shows that the file is complete. Signed states keep their signature: it covers the key, not the partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from celery_partitions.model.errors import SetupError

FORMAT = "celery-partitions export"
VERSION = 1


class Header(msgspec.Struct, tag="header", tag_field="kind"):
    """Where the file comes from. `at`: seconds since the epoch, by the server's clock."""

    format: str
    version: int
    group: str
    partitions: int
    at: float
    #: The prefix of the group's queues there. Its states are signed for that prefix.
    root: str


class PartitionMeta(msgspec.Struct, tag="meta", tag_field="kind"):
    """A partition's commit number, counters, and whether it is paused."""

    partition: str
    values: dict[str, str]


class StateRecord(msgspec.Struct, tag="state", tag_field="kind"):
    partition: str
    computation: str
    key: bytes
    state: bytes


class ParkedKeyRecord(msgspec.Struct, tag="parked", tag_field="kind"):
    partition: str
    key: bytes
    record: bytes


class Mail(msgspec.Struct, tag="mail", tag_field="kind"):
    """A message in a parked key's mailbox."""

    partition: str
    key: bytes
    message: bytes


class DelayedRecord(msgspec.Struct, tag="delayed", tag_field="kind"):
    """A delayed message. `entry`: `<commit number>.<number>:<raw message>`; `due` in ms."""

    partition: str
    due: int
    entry: bytes


class DeadLetterRecord(msgspec.Struct, tag="dead-letter", tag_field="kind"):
    partition: str
    id: bytes
    dead_letter: bytes


class DeadLetterMessage(msgspec.Struct, tag="dead-letter-message", tag_field="kind"):
    """The message of a dead letter, if it is so long that it is stored separately."""

    partition: str
    id: bytes
    message: bytes


class SeenIds(msgspec.Struct, tag="seen", tag_field="kind"):
    """Message ids that a computation has seen, for deduplication. They expire after `expire_ms` (-1: never)."""

    partition: str
    computation: str
    age: Literal["young", "old"]
    ids: list[bytes]
    expire_ms: int


class Message(msgspec.Struct, tag="message", tag_field="kind"):
    """A message in the partition's queue."""

    partition: str
    message: bytes


class Policy(msgspec.Struct, tag="policy", tag_field="kind"):
    computation: str
    change: bytes


class End(msgspec.Struct, tag="end", tag_field="kind"):
    """The last line. `records`: the number of records between the header and this line."""

    records: int


Record = PartitionMeta | StateRecord | ParkedKeyRecord | Mail | DelayedRecord | DeadLetterRecord | DeadLetterMessage | SeenIds | Message | Policy
_decode = msgspec.json.Decoder(Record | Header | End).decode
_encode = msgspec.json.Encoder().encode


def write_line(stream: BinaryIO, value: Record | Header | End) -> None:
    stream.write(_encode(value) + b"\n")


def read_header(path: Path) -> Header:
    """The file's first line. Raises `SetupError` if the file is not an export of this version."""
    with path.open("rb") as stream:
        return _header(stream.readline(1_000_000))


def read_records(path: Path) -> Iterator[Record]:
    """The records between the header and the end. Raises `SetupError` that names the line if the file is incomplete or damaged."""
    with path.open("rb") as stream:
        _header(stream.readline(1_000_000))
        for count, line in enumerate(stream):
            number = count + 2
            try:
                value = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise SetupError(f"{path}, line {number}: not a valid record: {error}. The file is damaged") from None
            if isinstance(value, End):
                if value.records != count:
                    raise SetupError(f"{path}: the file has {count} records, but its last line says {value.records}: it is incomplete")
                return
            if isinstance(value, Header):
                raise SetupError(f"{path}, line {number}: a second header. The file is damaged")
            yield value
    raise SetupError(f"{path}: the last line is missing: the file is incomplete")


def _header(line: bytes) -> Header:
    try:
        header = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        header = None
    if not isinstance(header, Header) or header.format != FORMAT:
        raise SetupError("the file was not written by `partitions export`")
    if header.version != VERSION:
        raise SetupError(f"the export has format version {header.version}, but this release reads version {VERSION}")
    return header
