"""Wallaroo's sources and sinks: configs that accept the arguments of all its versions.

Before 0.2, a decoder was an object with `header_length()`, `payload_length(header)` and `decode(payload)`, and an encoder an object
with `encode(message)`. These objects and their classes are accepted too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_partitions.pipeline import sinks, sources
from celery_partitions.pipeline.frames import Decoder, Encoder
from celery_partitions.wallaroo.computations import WallarooParameterError


class DecoderObject:
    """Adapts a decoder object of Wallaroo 0.1 to our sources."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def __call__(self, payload: bytes) -> Any:
        return self.decoder.decode(payload)

    def header_length(self) -> int:
        return int(self.decoder.header_length())

    def payload_length(self, header: bytes, /) -> int:
        return int(self.decoder.payload_length(header))


class EncoderObject:
    """Adapts an encoder object of Wallaroo 0.1 to our sinks."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def __call__(self, value: Any) -> Any:
        return self.encoder.encode(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncoderObject) and other.encoder is self.encoder

    def __hash__(self) -> int:
        return id(self.encoder)


class TCPSourceConfig(sources.TCPSourceConfig):
    """`(host, port, decoder[, parallelism])`, optionally with a name first; see `celery_partitions.TCPSourceConfig`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(
            *(_decoding(one) for one in arguments), **{name: _decoding(value) for name, value in named.items()}
        )


class TCPSinkConfig(sinks.TCPSinkConfig):
    """`(host, port, encoder)`, optionally with a name first; see `celery_partitions.TCPSinkConfig`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        order = ("name", "host", "port", "encoder") if len(arguments) == 4 else ("host", "port", "encoder")
        given = dict(zip(order, arguments, strict=False)) | named
        if len(arguments) > 4 or not {"host", "port", "encoder"} <= set(given) <= {"name", "host", "port", "encoder"}:
            raise WallarooParameterError(f"TCPSinkConfig expects ([name, ]host, port, encoder), not {arguments!r:.80}")
        try:
            port = int(given["port"])
        except (TypeError, ValueError):
            raise WallarooParameterError(f"TCPSinkConfig: {given['port']!r:.40} is not a port number") from None
        super().__init__(str(given["host"]), port, encoding(given["encoder"]), given.get("name"))


GenSourceConfig = sources.GenSourceConfig


def _decoding(given: Any) -> Any:
    if given is None or isinstance(given, str | bytes | int | float | Decoder | DecoderObject):
        return given
    return decoding(given)


def decoding(given: Any) -> Any:
    """A decoder for our sources, from a decoder of any Wallaroo version. Raises `WallarooParameterError` for anything else."""
    if isinstance(given, Decoder | DecoderObject):
        return given
    decoder = given() if isinstance(given, type) else given
    missing = [name for name in ("header_length", "payload_length", "decode") if not callable(getattr(decoder, name, None))]
    if missing:
        raise WallarooParameterError(
            f"{given!r:.80} is not a decoder: it has no {' and no '.join(missing)}. Decorate a function with @wallaroo.decoder(header_length=, length_fmt=)"
        )
    return DecoderObject(decoder)


def encoding(given: Any) -> Callable[[Any], Any]:
    """An encoder for our sinks, from an encoder of any Wallaroo version. Raises `WallarooParameterError` for anything else."""
    if isinstance(given, Encoder | EncoderObject):
        return given
    encoder = given() if isinstance(given, type) else given
    if callable(getattr(encoder, "encode", None)):
        return EncoderObject(encoder)
    if callable(encoder):
        return Encoder(encoder)
    raise WallarooParameterError(f"{given!r:.80} is not an encoder: decorate a function with @wallaroo.encoder")
