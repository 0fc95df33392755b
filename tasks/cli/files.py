"""Messages out of a file, row by row: JSON lines, or CSV whose header names the message's fields."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import msgspec

from tasks.model.errors import MessageError
from tasks.model.messages import MessageCodec


def read_messages(file: str, form: str | None, codec: MessageCodec) -> Iterator[Any]:
    """The rows of a file (`-`: standard input) as messages. Raises `MessageError` that names the line.

    CSV has only text: a row's cells are made what the message's fields want; an empty cell of a field that may be null is null.
    """
    form = form or ("csv" if file.endswith(".csv") else "jsonl")
    if file == "-":
        yield from _rows(sys.stdin, form, codec)
        return
    try:
        with Path(file).open(encoding="utf-8-sig", newline="") as stream:
            yield from _rows(stream, form, codec)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise MessageError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MessageError(f"{file}: not UTF-8 text: {error.reason}") from error


def _rows(stream: TextIO, form: str, codec: MessageCodec) -> Iterator[Any]:
    if form == "csv":
        reader = csv.DictReader(stream)
        for row in reader:
            if None in row or None in row.values():
                raise MessageError(f"line {reader.line_num}: more or fewer cells than the header has")
            try:
                yield codec.from_text(row)
            except MessageError as error:
                raise MessageError(f"line {reader.line_num}: {error}", reason=error.reason) from error
        return
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            message = msgspec.json.decode(line)
            codec.encode(message)
            yield message
        except (msgspec.DecodeError, MessageError) as error:
            raise MessageError(f"line {number}: {error}") from error
