"""Configurations of sources. `celery -A APP partitions source NAME` runs the process that reads one (`celery_partitions.sources`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery_partitions.model.errors import DeclarationError


class SourceConfig:
    """Base class of the configurations that `source(name, config)` accepts."""


@dataclass(init=False, slots=True)
class TCPSourceConfig(SourceConfig):
    """Listens on a TCP port for frames: a header with the payload's length, then the payload, which goes to the decoder.

    `TCPSourceConfig(host, port, decoder[, parallelism])`. A name before these is accepted and ignored, because the source has one.
    Frames of one connection keep their order. Delivery is at most once: frames that are not in a queue when the process is killed are
    lost, because TCP does not report that to the sender. `parallelism` is accepted and ignored: partitions run in parallel.
    """

    name: str | None
    host: str
    port: int
    decoder: Callable[[bytes], Any]
    parallelism: int | None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.name, rest = _named(arguments, 3)
        # Wallaroo's later form has `valid` before `parallelism`.
        order = ("host", "port", "decoder", "parallelism") if self.name is None else ("host", "port", "decoder", "valid", "parallelism")
        given = dict(zip(order, rest, strict=False)) | named
        self.name = given.pop("name", self.name)
        missing = [word for word in order[:3] if word not in given]
        if missing or len(rest) > len(order) or set(given) - set(order):
            raise DeclarationError(
                "TCPSourceConfig: expected (host, port, decoder[, parallelism]), optionally with a name first; "
                + (f"missing: {', '.join(missing)}" if missing else f"got {arguments!r:.80}")
            )
        self.host, self.port = str(given["host"]), _port(given["port"])
        self.decoder, self.parallelism = given["decoder"], given.get("parallelism")
        for attribute in ("header_length", "payload_length"):
            if not callable(getattr(self.decoder, attribute, None)):
                raise DeclarationError("TCPSourceConfig: decoder must be a function decorated with @decoder(header_length=, length_fmt=)")


@dataclass(init=False, slots=True)
class GenSourceConfig(SourceConfig):
    """Reads a generator: `initial_value()` returns the first message, `apply(value)` the one after `value`, and None ends the source.

    `GenSourceConfig(gen)` or `GenSourceConfig(name, gen)`; `gen` may be a class. Delivery is exactly once: the last value and the
    generator's attributes are written together with the messages, and the next process continues from there. Attributes that
    cannot be pickled are reset after a restart, and a warning is logged.
    """

    name: str | None
    generator: Any

    def __init__(self, *arguments: Any) -> None:
        self.name, rest = _named(arguments, 1)
        if len(rest) != 1:
            raise DeclarationError(f"GenSourceConfig: expected (gen) or (name, gen), got {arguments!r:.80}")
        self.generator = rest[0]
        for method in ("initial_value", "apply"):
            if not callable(getattr(self.generator, method, None)):
                raise DeclarationError(f"GenSourceConfig: the generator needs the methods initial_value() and apply(value), and has no {method}")


@dataclass(slots=True)
class FileSource(SourceConfig):
    """Reads the lines of a file. `decoder` gets the bytes of a line, without its end, and returns the message; None: JSON.

    Delivery is exactly once: the offset is written together with the messages. `follow`: wait for more lines at the end, as `tail -F`
    does. After a rotation it reads the rest of the old file, then the new one. Files must only grow; truncation is not supported.
    """

    path: str | Path
    decoder: Callable[[bytes], Any] | None = None
    follow: bool = False


@dataclass(slots=True)
class StreamSource(SourceConfig):
    """Reads a Redis stream on the broker's server, with a consumer group that has the source's name.

    A message is an entry as `{field: text}`, or, with `field`, the JSON in that field. Delivery is exactly once: an entry is
    acknowledged in the transaction that enqueues its message.
    """

    stream: str
    field: str | None = None


def _named(arguments: tuple[Any, ...], least: int) -> tuple[str | None, tuple[Any, ...]]:
    """Split off an optional name before the arguments: a text, where the arguments themselves do not begin with two texts."""
    takes_name = len(arguments) > least and isinstance(arguments[0], str) and (least == 1 or isinstance(arguments[1], str))
    return (arguments[0], arguments[1:]) if takes_name else (None, arguments)


def _port(value: Any) -> int:
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = -1
    if not 0 <= port <= 65535:
        raise DeclarationError(f"expected a port number from 0 to 65535, got {value!r:.40}")
    return port
