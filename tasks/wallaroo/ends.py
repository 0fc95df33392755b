"""Wallaroo's sources and sinks: configs that take the forms of all its versions, and decoders and encoders that are objects.

Before 0.2 a decoder was an object with `header_length()`, `payload_length(header)` and `decode(payload)`, an encoder one with
`encode(message)`; those are taken too, and their classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_partitions.pipeline import sinks, sources
from celery_partitions.pipeline.frames import Decoder, Encoder
from celery_partitions.wallaroo.computations import WallarooParameterError


class DecoderObject:
    """An object that decodes, as our sources take it: to be called, and asked for the header."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def __call__(self, payload: bytes) -> Any:
        return self.decoder.decode(payload)

    def header_length(self) -> int:
        """Bytes of a header."""
        return int(self.decoder.header_length())

    def payload_length(self, header: bytes, /) -> int:
        """The bytes of payload that follow this header."""
        return int(self.decoder.payload_length(header))


class EncoderObject:
    """An object that encodes, as our sinks take it: to be called."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def __call__(self, value: Any) -> Any:
        return self.encoder.encode(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncoderObject) and other.encoder is self.encoder

    def __hash__(self) -> int:
        return id(self.encoder)


class TCPSourceConfig(sources.TCPSourceConfig):
    """`(host, port, decoder[, parallelism])`, or a name before them; see `celery_partitions.TCPSourceConfig`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(
            *(_decoding(one) for one in arguments), **{name: _decoding(value) for name, value in named.items()}
        )


class TCPSinkConfig(sinks.TCPSinkConfig):
    """`(host, port, encoder)`, or a name before them; see `celery_partitions.TCPSinkConfig`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        order = ("name", "host", "port", "encoder") if len(arguments) == 4 else ("host", "port", "encoder")
        given = dict(zip(order, arguments, strict=False)) | named
        if len(arguments) > 4 or not {"host", "port", "encoder"} <= set(given) <= {"name", "host", "port", "encoder"}:
            raise WallarooParameterError(f"TCPSinkConfig wants (host, port, encoder), or a name before them; got {arguments!r:.80}")
        try:
            port = int(given["port"])
        except (TypeError, ValueError):
            raise WallarooParameterError(f"TCPSinkConfig: {given['port']!r:.40} is no port") from None
        super().__init__(str(given["host"]), port, encoding(given["encoder"]), given.get("name"))


GenSourceConfig = sources.GenSourceConfig


def _decoding(given: Any) -> Any:
    if given is None or isinstance(given, str | bytes | int | float | Decoder | DecoderObject):
        return given
    return decoding(given)


def decoding(given: Any) -> Any:
    """A decoder as our sources take it. Raises `WallarooParameterError` for what is none."""
    if isinstance(given, Decoder | DecoderObject):
        return given
    decoder = given() if isinstance(given, type) else given
    missing = [name for name in ("header_length", "payload_length", "decode") if not callable(getattr(decoder, name, None))]
    if missing:
        raise WallarooParameterError(
            f"{given!r:.80} is no decoder: decorate a function with @wallaroo.decoder(header_length=, length_fmt=). It has no {' and no '.join(missing)}"
        )
    return DecoderObject(decoder)


def encoding(given: Any) -> Callable[[Any], Any]:
    """An encoder as our sinks take it. Raises `WallarooParameterError` for what is none."""
    if isinstance(given, Encoder | EncoderObject):
        return given
    encoder = given() if isinstance(given, type) else given
    if callable(getattr(encoder, "encode", None)):
        return EncoderObject(encoder)
    if callable(encoder):
        return Encoder(encoder)
    raise WallarooParameterError(f"{given!r:.80} is no encoder: decorate a function with @wallaroo.encoder")
