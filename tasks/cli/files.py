"""Reads messages from a file, row by row: JSON lines, or CSV whose header names the message's fields."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from celery_partitions.cli.csv_rows import nullable_of, with_nulls
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import MessageError
from celery_partitions.model.messages import MessageCodec
from celery_partitions_config.parsers import MAX_MESSAGE_BYTES


def read_messages(file: str, form: str | None, computation: Computation) -> Iterator[Any]:
    """The rows of a file (`-`: standard input) as messages, ready to send. Raises `MessageError` that names the line.

    CSV has only text, so each cell is converted to its field's type. An empty cell is null if the field may be null.
    """
    form = form or ("csv" if file.endswith(".csv") else "jsonl")
    try:
        if file != "-":
            with Path(file).open("rb") as stream:
                yield from _rows(stream, form, computation)
        elif sys.stdin is None:  # closed, by `<&-`
            raise MessageError("standard input is closed")
        else:
            yield from _rows(sys.stdin.buffer, form, computation)
    except OSError as error:
        raise MessageError(f"{file}: {error.strerror or error}") from error


class _Lines:
    """A stream's lines as text. `number` is the number of the last line read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._stream.readline(MAX_MESSAGE_BYTES + 1):
            self.number += 1
            if len(line) > MAX_MESSAGE_BYTES:
                raise MessageError(f"the line is longer than {MAX_MESSAGE_BYTES} bytes", reason="too-large")
            yield line.decode("utf-8-sig" if self.number == 1 else "utf-8")


def _rows(stream: BinaryIO, form: str, computation: Computation) -> Iterator[Any]:
    lines = _Lines(stream)
    messages = _from_csv(lines, computation.codec) if form == "csv" else _from_json(lines)
    try:
        for message in messages:
            _, as_sent = computation.codec.encode(message)
            computation.key_of(as_sent)
            yield message
    except MessageError as error:
        raise MessageError(f"line {lines.number}: {error}", reason=error.reason) from error
    except UnicodeDecodeError as error:
        raise MessageError(f"line {lines.number}: not UTF-8 text: {error.reason}") from error
    except (csv.Error, msgspec.DecodeError, RecursionError) as error:
        raise MessageError(f"line {lines.number}: {error}") from error


def _from_csv(lines: _Lines, codec: MessageCodec) -> Iterator[Any]:
    nullable = nullable_of(codec.annotation)
    for row in csv.DictReader(lines):
        if None in row or None in row.values():
            raise MessageError("the row has more or fewer cells than the header")
        yield codec.from_text(with_nulls(row, nullable))


def _from_json(lines: _Lines) -> Iterator[Any]:
    for line in lines:
        if line.strip():
            yield msgspec.json.decode(line)
