"""Frames: decoders and encoders as declared, and the splitter that cuts a byte stream into payloads.

A frame is a header that says how many bytes of payload follow it, and those bytes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Protocol

from celery_partitions.model.arity import misfit
from celery_partitions.model.errors import DeclarationError, PartitionError

#: A longer payload would be no message: what PARTITIONS_MESSAGE_BYTES is by default.
MAX_PAYLOAD_BYTES = 8_000_000


class FrameError(PartitionError, ValueError):
    """A header that can't be right: where the next frame starts is unknown, so the stream can't be read on.

    `payloads`: what was complete before it in the same bytes. They are good, and are given nowhere else. `rest`: the bytes from
    that header on, as far as they had come.
    """

    rest: bytes = b""

    def __init__(self, message: str, payloads: list[bytes]) -> None:
        super().__init__(message)
        self.payloads = payloads


class Framed(Protocol):
    """What a splitter asks of a decoder. Any object with these methods will do."""

    def header_length(self) -> int:
        """Bytes of a header."""

    def payload_length(self, header: bytes, /) -> int:
        """The bytes of payload that follow this header, of `header_length` bytes."""


class _Declared:
    """A function under another name, that pickles as what it is called by, or else by its parts."""

    __qualname__: str  # as update_wrapper sets it

    def __init__(self, function: Callable[[Any], Any], what: str) -> None:
        _takes_one(function, what)
        self.function = function
        update_wrapper(self, function)
        #: How errors call it.
        self.label = f"{what} {getattr(function, '__qualname__', type(function).__qualname__)}"

    def __call__(self, argument: Any) -> Any:
        return self.function(argument)

    def _parts(self) -> tuple[Any, ...]:
        """What the class is called with to make it again."""
        return (self.function,)

    def __reduce__(self) -> str | tuple[Any, ...]:
        module, name = getattr(self, "__module__", None), getattr(self, "__qualname__", None)
        found: Any = sys.modules.get(module or "")
        for part in (name or "").split("."):
            found = getattr(found, part, None)
        # `decode = decoder()(plain)`: the module's `plain` is another thing, and pickles by its own name.
        return name if found is self and name else (type(self), self._parts())

    def __repr__(self) -> str:
        return f"<{self.label}>"


class Decoder(_Declared):
    """A decoder as declared: `decoder(payload)` and `decoder.decode(payload)` give the message.

    None means that there is no message in it; what the function raises, these raise.
    """

    def __init__(self, function: Callable[[bytes], Any], header_length: int, length_fmt: str) -> None:
        super().__init__(function, "decoder")
        self._header = _header(self.label, header_length, length_fmt)
        self._length_fmt = length_fmt

    def decode(self, payload: bytes) -> Any:
        """The payload's message."""
        return self.function(payload)

    def header_length(self) -> int:
        """Bytes of a header."""
        return self._header.size

    def payload_length(self, header: bytes, /) -> int:
        """The bytes of payload that follow this header."""
        (length,) = self._header.unpack(header)
        return int(length)

    def _parts(self) -> tuple[Any, ...]:
        return (self.function, self._header.size, self._length_fmt)


class Encoder(_Declared):
    """An encoder as declared. `encoder(value)` gives the bytes to send (of a str: its UTF-8), or None for nothing.

    It raises what the function raises, and `TypeError` when the function returns anything else.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(function, "encoder")

    def __call__(self, value: Any) -> bytes | None:
        return as_bytes(self.function(value), self.label)

    def encode(self, value: Any) -> Any:
        """What the function returns, as it is: for a test of it."""
        return self.function(value)


def decoder(header_length: int = 4, length_fmt: str = ">I") -> Callable[[Callable[[bytes], Any]], Decoder]:
    """Declare a function of a frame's payload that returns the message, or None for none.

    `header_length`: bytes of the header. `length_fmt`: how `struct` reads the payload's length from it, in bytes, the
    header not counted. Raises `DeclarationError` when the format has not that size, or is not one whole number.

        @decoder(header_length=4, length_fmt=">I")
        def decode(payload):
            return payload.decode()
    """
    return lambda function: Decoder(function, header_length, length_fmt)


def encoder(function: Callable[[Any], Any]) -> Encoder:
    """Declare a function of a value that returns the bytes a sink sends: bytes, a str (as UTF-8), or None for nothing.

    They are sent as they are: a frame's header, or a line's end, is the encoder's to add.
    """
    return Encoder(function)


def as_bytes(encoded: Any, label: str) -> bytes | None:
    """What an encoder returned, as it is sent. Raises `TypeError`, that says `label`, for what can't be sent."""
    if encoded is None or type(encoded) is bytes:
        return encoded
    if isinstance(encoded, str):
        return encoded.encode()
    if isinstance(encoded, bytes | bytearray | memoryview):
        return bytes(encoded)
    raise TypeError(f"{label} returned {type(encoded).__qualname__}: it gives bytes, a str, or None to send nothing")


class FrameSplitter:
    """Cuts one stream of bytes into payloads. One for each connection; of no use after it raised."""

    def __init__(self, framed: Framed, max_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        """`max_bytes`: a header that says more is not believed, for its payload would be gathered in memory."""
        self._header_length = framed.header_length()
        self._payload_length = framed.payload_length
        self._max_bytes = max_bytes
        self._rest = bytearray()
        #: There is nothing to look for in the rest before it has so many bytes.
        self._wanted = self._header_length

    @property
    def waiting(self) -> int:
        """Bytes of a frame that is not complete. A stream that ends with some was cut off."""
        return len(self._rest)

    @property
    def rest(self) -> bytes:
        """Those bytes."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the stream's next bytes, any number of them; the payloads that are complete now, in order.

        Raises `FrameError` for a length that is negative or above `max_bytes`, or can't be read.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = bytes(self._rest)
        payloads: list[bytes] = []
        at, size, header_length = 0, len(data), self._header_length
        while at + header_length <= size:
            start = at + header_length
            try:
                end = start + self._length(data[at:start], payloads)
            except FrameError as error:
                error.rest = data[at:]
                raise
            if end > size:
                break
            payloads.append(data[start:end])
            at = end
        self._wanted = end - at if at + header_length <= size else header_length
        self._rest = bytearray(data[at:])
        return payloads

    def _length(self, header: bytes, payloads: list[bytes]) -> int:
        try:
            length = self._payload_length(header)
        except Exception as error:
            raise FrameError(f"the header {header.hex(' ')} has no length in it: {error}", payloads) from error
        if not 0 <= length <= self._max_bytes:
            raise FrameError(
                f"the header {header.hex(' ')} says {length} bytes; a payload has 0 to {self._max_bytes}. "
                "Either the stream is not framed as the decoder declares, or PARTITIONS_MESSAGE_BYTES is too low for it",
                payloads,
            )
        return length


def _header(label: str, header_length: int, length_fmt: str) -> struct.Struct:
    try:
        header = struct.Struct(length_fmt)
        values = header.unpack(bytes(header.size))
    except (struct.error, TypeError) as error:
        raise DeclarationError(f"{label}: length_fmt={length_fmt!r} is no format of struct: {error}") from error
    if header.size != header_length:
        raise DeclarationError(
            f"{label}: length_fmt={length_fmt!r} reads {header.size} bytes and header_length= says {header_length!r}. "
            "Without < or > in front, struct takes this machine's sizes"
        )
    if len(values) != 1 or type(values[0]) is not int:
        raise DeclarationError(f"{label}: length_fmt={length_fmt!r} must give one whole number, the payload's length")
    return header


def _takes_one(function: Callable[..., Any], what: str) -> None:
    if not callable(function):
        raise DeclarationError(f"{what}: decorate a function, not {function!r}")
    if error := misfit(function, 1):
        raise DeclarationError(f"{what} {getattr(function, '__qualname__', function)} takes one argument: {error}")
