"""The file that `export` writes and `import` reads: JSON lines, bytes in base64.

The first line is the `Header`; then what each partition holds, lists from the oldest on; the last line is `End`, which tells a
whole file from a cut one. Signed states stay as they are signed: the tag is over the key, not the partition.
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
    """What the file is of. `at`: seconds since the epoch, by the server's clock."""

    format: str
    version: int
    group: str
    partitions: int
    at: float
    #: What the group's queues began with there: its states are signed for that.
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


class ExportedParkedKey(msgspec.Struct, tag="parked", tag_field="kind"):
    partition: str
    key: bytes
    record: bytes


class Mail(msgspec.Struct, tag="mail", tag_field="kind"):
    """A message of a parked key's mailbox."""

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
    """The message of a dead letter that is kept apart from it, because it is long."""

    partition: str
    id: bytes
    message: bytes


class SeenIds(msgspec.Struct, tag="seen", tag_field="kind"):
    """Message ids that a computation has seen, where it drops duplicates; for so many ms more (-1: for ever)."""

    partition: str
    computation: str
    age: Literal["young", "old"]
    ids: list[bytes]
    expire_ms: int


class Message(msgspec.Struct, tag="message", tag_field="kind"):
    """A message of the partition's queue."""

    partition: str
    message: bytes


class Policy(msgspec.Struct, tag="policy", tag_field="kind"):
    computation: str
    change: bytes


class End(msgspec.Struct, tag="end", tag_field="kind"):
    """So many records stand between the header and this."""

    records: int


Record = PartitionMeta | StateRecord | ExportedParkedKey | Mail | DelayedRecord | DeadLetterRecord | DeadLetterMessage | SeenIds | Message | Policy
_decode = msgspec.json.Decoder(Record | Header | End).decode
_encode = msgspec.json.Encoder().encode


def write_line(stream: BinaryIO, value: Record | Header | End) -> None:
    stream.write(_encode(value) + b"\n")


def read_header(path: Path) -> Header:
    """The first line. Raises `SetupError` when the file is no export that can be read here."""
    with path.open("rb") as stream:
        return _header(stream.readline(1_000_000))


def read_records(path: Path) -> Iterator[Record]:
    """What lies between the header and the end. Raises `SetupError` that names the line when the file is cut or spoiled."""
    with path.open("rb") as stream:
        _header(stream.readline(1_000_000))
        for count, line in enumerate(stream):
            number = count + 2
            try:
                value = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise SetupError(f"{path}, line {number}: not a record of an export: {error}") from None
            if isinstance(value, End):
                if value.records != count:
                    raise SetupError(f"{path}: {count} records, and its end says {value.records}: it is not whole")
                return
            if isinstance(value, Header):
                raise SetupError(f"{path}, line {number}: a second header")
            yield value
    raise SetupError(f"{path}: its end is missing: the export was cut short")


def _header(line: bytes) -> Header:
    try:
        header = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        header = None
    if not isinstance(header, Header) or header.format != FORMAT:
        raise SetupError("the file is not an export of partitions")
    if header.version != VERSION:
        raise SetupError(f"the export is of version {header.version}, and this program reads version {VERSION}")
    return header
