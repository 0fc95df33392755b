"""Frames: decoders and encoders, and the splitter that cuts a byte stream into payloads.

A frame is a header with the payload's length, followed by the payload.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Protocol

from celery_partitions.model.arity import misfit
from celery_partitions.model.errors import DeclarationError, PartitionError

#: The default of PARTITIONS_MESSAGE_BYTES. A longer payload can't become a message.
MAX_PAYLOAD_BYTES = 8_000_000


class FrameError(PartitionError, ValueError):
    """A header is invalid. The start of the next frame is unknown, so the rest of the stream can't be read.

    `payloads`: the complete payloads before the header, from the same bytes. They are valid, and are available only here. `rest`: the bytes
    received so far, from that header on.
    """

    rest: bytes = b""

    def __init__(self, message: str, payloads: list[bytes]) -> None:
        super().__init__(message)
        self.payloads = payloads


class Framed(Protocol):
    """What a splitter needs from a decoder. Any object with these methods works."""

    def header_length(self) -> int:
        """The length of a header, in bytes."""

    def payload_length(self, header: bytes, /) -> int:
        """The length of the payload after this header, in bytes. `header` has `header_length` bytes."""


class _Declared:
    """A wrapped function. It pickles by its module and name, if it is found there, and otherwise by its parts."""

    __qualname__: str  # as update_wrapper sets it

    def __init__(self, function: Callable[[Any], Any], what: str) -> None:
        _takes_one(function, what)
        self.function = function
        update_wrapper(self, function)
        #: Its name in errors.
        self.label = f"{what} {getattr(function, '__qualname__', type(function).__qualname__)}"

    def __call__(self, argument: Any) -> Any:
        return self.function(argument)

    def _parts(self) -> tuple[Any, ...]:
        """The arguments that create it again."""
        return (self.function,)

    def __reduce__(self) -> str | tuple[Any, ...]:
        module, name = getattr(self, "__module__", None), getattr(self, "__qualname__", None)
        found: Any = sys.modules.get(module or "")
        for part in (name or "").split("."):
            found = getattr(found, part, None)
        # With `decode = decoder()(plain)`, the name leads to the plain function, not to this object.
        return name if found is self and name else (type(self), self._parts())

    def __repr__(self) -> str:
        return f"<{self.label}>"


class Decoder(_Declared):
    """A declared decoder. `decoder(payload)` and `decoder.decode(payload)` return the message.

    They return None if the payload contains no message, and raise what the function raises.
    """

    def __init__(self, function: Callable[[bytes], Any], header_length: int, length_fmt: str) -> None:
        super().__init__(function, "decoder")
        self._header = _header(self.label, header_length, length_fmt)
        self._length_fmt = length_fmt

    def decode(self, payload: bytes) -> Any:
        """The message in a payload."""
        return self.function(payload)

    def header_length(self) -> int:
        """The length of a header, in bytes."""
        return self._header.size

    def payload_length(self, header: bytes, /) -> int:
        """The length of the payload after this header, in bytes."""
        (length,) = self._header.unpack(header)
        return int(length)

    def _parts(self) -> tuple[Any, ...]:
        return (self.function, self._header.size, self._length_fmt)


class Encoder(_Declared):
    """A declared encoder. `encoder(value)` returns the bytes to send (a str as UTF-8), or None to send nothing.

    It raises what the function raises, and `TypeError` if the function returns another type.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(function, "encoder")

    def __call__(self, value: Any) -> bytes | None:
        return as_bytes(self.function(value), self.label)

    def encode(self, value: Any) -> Any:
        """What the function returns, unchanged. For tests of the function."""
        return self.function(value)


def decoder(header_length: int = 4, length_fmt: str = ">I") -> Callable[[Callable[[bytes], Any]], Decoder]:
    """Declare a decoder: a function that takes a frame's payload and returns the message, or None if it contains none.

    A source process calls the function once per frame. `header_length`: the header's length in bytes. `length_fmt`: the `struct` format
    with which the payload's length in bytes, without the header, is read from the header. Raises `DeclarationError` if the format has
    another size than `header_length`, or is not one integer.

        @decoder(header_length=4, length_fmt=">I")
        def decode(payload):
            return payload.decode()
    """
    return lambda function: Decoder(function, header_length, length_fmt)


def encoder(function: Callable[[Any], Any]) -> Encoder:
    """Declare an encoder: a function that takes a value and returns what a sink sends: bytes, a str (sent as UTF-8), or None for nothing.

    The bytes are sent unchanged. If the receiver needs a frame header or a line end, the encoder must add it.
    """
    return Encoder(function)


def as_bytes(encoded: Any, label: str) -> bytes | None:
    """Convert what an encoder returned to bytes. Raises `TypeError`, which names `label`, for another type."""
    if encoded is None or type(encoded) is bytes:
        return encoded
    if isinstance(encoded, str):
        return encoded.encode()
    if isinstance(encoded, bytes | bytearray | memoryview):
        return bytes(encoded)
    raise TypeError(f"{label} returned {type(encoded).__qualname__}; it must return bytes, a str, or None to send nothing")


class FrameSplitter:
    """Cuts one stream of bytes into payloads. Use one per connection, and none after it has raised."""

    def __init__(self, framed: Framed, max_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        """`max_bytes`: the longest accepted payload, because a payload is collected in memory."""
        self._header_length = framed.header_length()
        self._payload_length = framed.payload_length
        self._max_bytes = max_bytes
        self._rest = bytearray()
        #: The rest can't contain a complete frame before it has this many bytes.
        self._wanted = self._header_length

    @property
    def waiting(self) -> int:
        """The number of bytes of an incomplete frame. If it is not 0 at the stream's end, the stream was cut off."""
        return len(self._rest)

    @property
    def rest(self) -> bytes:
        """The bytes of an incomplete frame."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the stream's next bytes, any number of them. Returns the payloads that are now complete, in order.

        Raises `FrameError` for a length that is negative, above `max_bytes`, or can't be read.
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
            raise FrameError(f"no length can be read from the header {header.hex(' ')}: {error}", payloads) from error
        if not 0 <= length <= self._max_bytes:
            raise FrameError(
                f"the header {header.hex(' ')} gives a length of {length} bytes; allowed are 0 to {self._max_bytes}. "
                "Either the stream's frames differ from the decoder's declaration, or PARTITIONS_MESSAGE_BYTES is too low",
                payloads,
            )
        return length


def _header(label: str, header_length: int, length_fmt: str) -> struct.Struct:
    try:
        header = struct.Struct(length_fmt)
        values = header.unpack(bytes(header.size))
    except (struct.error, TypeError) as error:
        raise DeclarationError(f"{label}: length_fmt={length_fmt!r} is not a valid struct format: {error}") from error
    if header.size != header_length:
        raise DeclarationError(
            f"{label}: length_fmt={length_fmt!r} reads {header.size} bytes, but header_length= is {header_length!r}. "
            "Without < or > in front, struct uses this machine's sizes"
        )
    if len(values) != 1 or type(values[0]) is not int:
        raise DeclarationError(f"{label}: length_fmt={length_fmt!r} must read one integer, the payload's length")
    return header


def _takes_one(function: Callable[..., Any], what: str) -> None:
    if not callable(function):
        raise DeclarationError(f"{what}: decorate a function, not {function!r}")
    if error := misfit(function, 1):
        raise DeclarationError(f"{what} {getattr(function, '__qualname__', function)} must take one argument: {error}")
