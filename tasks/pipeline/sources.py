"""What a source reads, as values; `celery -A APP partitions source NAME` runs the process that does (`celery_partitions.sources`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery_partitions.model.errors import DeclarationError


class SourceConfig:
    """Base of what `source(name, config)` takes."""


@dataclass(init=False, slots=True)
class TCPSourceConfig(SourceConfig):
    """Listens on a TCP port for frames: a header with the payload's length, and the payload, given to the decoder.

    `TCPSourceConfig(host, port, decoder[, parallelism])`, or with a name before, which is not used: the source has one. Frames of one connection keep their order. At most
    once: what was sent and not yet enqueued when the process is killed is lost, as TCP tells no sender of it. `parallelism` is
    taken and not used: the partitions are what runs in parallel.
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
                "TCPSourceConfig wants (host, port, decoder[, parallelism]), or a name before them; "
                + (f"missing: {', '.join(missing)}" if missing else f"got {arguments!r:.80}")
            )
        self.host, self.port = str(given["host"]), _port(given["port"])
        self.decoder, self.parallelism = given["decoder"], given.get("parallelism")
        for attribute in ("header_length", "payload_length"):
            if not callable(getattr(self.decoder, attribute, None)):
                raise DeclarationError("TCPSourceConfig: decoder= wants a function decorated with @decoder(header_length=, length_fmt=)")


@dataclass(init=False, slots=True)
class GenSourceConfig(SourceConfig):
    """One generator: `initial_value()` gives the first message, `apply(value)` the next after each; None ends it.

    `GenSourceConfig(gen)` or `(name, gen)`; `gen` may be a class. Exactly once: the value reached, and the generator's own attributes, are
    written together with the messages, so a process that comes after goes on from there. Attributes that can't be pickled are not kept, which is said.
    """

    name: str | None
    generator: Any

    def __init__(self, *arguments: Any) -> None:
        self.name, rest = _named(arguments, 1)
        if len(rest) != 1:
            raise DeclarationError(f"GenSourceConfig wants (gen) or (name, gen), got {arguments!r:.80}")
        self.generator = rest[0]
        for method in ("initial_value", "apply"):
            if not callable(getattr(self.generator, method, None)):
                raise DeclarationError(f"GenSourceConfig: the generator needs the methods initial_value() and apply(value); {method} is missing")


@dataclass(slots=True)
class FileSource(SourceConfig):
    """The lines of a file, each given to `decoder` (bytes without the line's end → message; None: JSON).

    Exactly once: the offset is written together with the messages. `follow`: wait for more at the end, as `tail -F` does, and go on to a
    new file under the name when nothing more comes to the old one; a file must only grow.
    """

    path: str | Path
    decoder: Callable[[bytes], Any] | None = None
    follow: bool = False


@dataclass(slots=True)
class StreamSource(SourceConfig):
    """The entries of a Redis stream on the broker's server, read by the consumer group of the source's name.

    An entry is `{field: text}`, or, with `field`, that field's JSON. Exactly once: it is acknowledged in the transaction
    that enqueues its message.
    """

    stream: str
    field: str | None = None


def _named(arguments: tuple[Any, ...], least: int) -> tuple[str | None, tuple[Any, ...]]:
    """A name that stands before the usual arguments: a text where the others would not begin with two."""
    takes_name = len(arguments) > least and isinstance(arguments[0], str) and (least == 1 or isinstance(arguments[1], str))
    return (arguments[0], arguments[1:]) if takes_name else (None, arguments)


def _port(value: Any) -> int:
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = -1
    if not 0 <= port <= 65535:
        raise DeclarationError(f"a port is a number up to 65535, not {value!r:.40}")
    return port
