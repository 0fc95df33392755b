"""Reads messages from a file, row by row: JSON lines, or CSV whose header names the message's fields."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from celery_partitions.admin.numbers import counted
from celery_partitions.cli.csv_rows import columns_of, nullable_of, with_nulls
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import MessageError
from celery_partitions_config.parsers import MAX_MESSAGE_BYTES

#: Called with the number of a refused row (from 1), its text and the error.
Refuse = Callable[[int, bytes, MessageError], None]


class _LineTooLong(Exception):
    """A line is longer than any message may be."""


class _Lines:
    """A stream's lines as text. `number` is the number of the last line read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.number = 0
        self._since: list[bytes] = []

    def take(self) -> bytes:
        """The lines read since the last call, as they are in the file."""
        taken, self._since = b"".join(self._since), []
        return taken

    def __iter__(self) -> Iterator[str]:
        while line := self._stream.readline(MAX_MESSAGE_BYTES + 1):
            self.number += 1
            if len(line) > MAX_MESSAGE_BYTES:
                raise _LineTooLong(f"the line is longer than {MAX_MESSAGE_BYTES} bytes")
            self._since.append(line)
            yield line.decode("utf-8-sig" if self.number == 1 else "utf-8")


class Rows:
    """The rows of a file (`-`: standard input) as messages, ready to send. Can be iterated over once.

    CSV has only text, so each cell is converted to its field's type. An empty cell is null if the field may be null. `skip`: leave out the
    first rows. `refuse`: called with the number of the row, its text and the error for each row that cannot be sent; None: the error is
    raised. A file that is not text, or not CSV, always raises. Errors are `MessageError`s that name the line. `say` gets what is left out:
    columns that are not fields, and rows of empty cells, which do not count as rows.
    """

    def __init__(
        self,
        file: str,
        form: str | None,
        computation: Computation,
        *,
        skip: int = 0,
        refuse: Refuse | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.file, self.computation, self.skip, self.refuse, self.say = file, computation, skip, refuse, say
        self.form = form or ("csv" if file.casefold().endswith(".csv") else "jsonl")
        self._form_is_given = form is not None
        self._nullable = nullable_of(computation.codec.annotation) if self.form == "csv" else None
        #: How many rows were read, with those that were left out or refused.
        self.number = 0
        #: The header's text, of a CSV file, and the field of each of its columns (None: none).
        self.header = b""
        self._names: list[str] = []
        self._columns: list[str | None] = []

    def __len__(self) -> int:
        """About how many rows the file has, for a progress bar: its lines. Not for standard input."""
        with Path(self.file).open("rb") as stream:
            lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
        return max(0, lines - (self.form == "csv") - self.skip)

    def __iter__(self) -> Iterator[Any]:
        try:
            if self.file != "-":
                with Path(self.file).open("rb") as stream:
                    yield from self._messages(_Lines(stream))
            elif sys.stdin is None:  # closed, by `<&-`
                raise MessageError("standard input is closed")
            else:
                yield from self._messages(_Lines(sys.stdin.buffer))
        except OSError as error:
            raise MessageError(f"{self.file}: {error.strerror or error}") from error

    def _messages(self, lines: _Lines) -> Iterator[Any]:
        try:
            for row in self._texts(lines):
                text = lines.take()
                self.number += 1
                if self.number <= self.skip:
                    continue
                try:
                    message = self._message(row)
                except (MessageError, msgspec.DecodeError, RecursionError) as error:
                    refused = MessageError(f"line {lines.number}: {error}{self._advice(error)}", reason=getattr(error, "reason", "not-json"))
                    if self.refuse is None:
                        raise refused from error
                    self.refuse(self.number, text, refused)
                    continue
                yield message
        except UnicodeDecodeError as error:
            raise MessageError(f"line {lines.number}: not UTF-8 text: {error.reason}") from error
        except csv.Error as error:
            raise MessageError(f"line {lines.number}: {error}") from error
        except _LineTooLong as error:
            raise MessageError(f"line {lines.number}: {error}", reason="too-large") from error

    def _texts(self, lines: _Lines) -> Iterator[Any]:
        if self.form != "csv":
            yield from (line for line in lines if line.strip())
            return
        text = iter(lines)
        self._names = next(filter(None, csv.reader(text)), [])
        self.header = lines.take()
        try:
            self._columns = columns_of(self._names, self.computation.codec.annotation, self.say)
        except MessageError as error:
            raise MessageError(f"line {lines.number}: {error}", reason=error.reason) from error
        # With `symbol, price` as header, the space before a cell belongs to the comma.
        spaced = any(name.startswith(" ") for name in self._names[1:])
        empty = 0
        for cells in filter(None, csv.reader(text, skipinitialspace=spaced)):
            if any(map(str.strip, cells)):
                yield cells
            else:
                lines.take()
                empty += 1
        if empty:
            self.say(f"ignored {counted(empty, 'row')} of empty cells")

    def _message(self, row: Any) -> Any:
        codec = self.computation.codec
        if self._nullable is None:
            message = msgspec.json.decode(row)
        elif len(row) != len(self._columns):
            raise MessageError("the row has more or fewer cells than the header")
        elif any(cell and not name for cell, name in zip(row, self._names, strict=True)):
            raise MessageError("the row has a cell in a column without a name")
        else:
            cells = {name: cell for name, cell in zip(self._columns, row, strict=True) if name is not None}
            message = codec.from_text(with_nulls(cells, self._nullable))
        _, as_sent = codec.encode(message)
        self.computation.key_of(as_sent)
        return message

    def _advice(self, error: Exception) -> str:
        """For what is CSV by its looks, but neither by its name nor by an option."""
        is_guess = self.form == "jsonl" and not self._form_is_given and isinstance(error, msgspec.DecodeError)
        return ". Lines are read as JSON; if this is CSV, pass --format csv" if is_guess and self.number == 1 else ""
