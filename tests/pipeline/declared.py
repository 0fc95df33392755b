"""Decoders and encoders at the top level of a module, where pickle finds them."""

from __future__ import annotations

import struct
from typing import Any

from celery_partitions.pipeline.frames import decoder, encoder


@decoder(header_length=4, length_fmt=">I")
def text(payload: bytes) -> str:
    """The payload as text."""
    return payload.decode()


def plain(payload: bytes) -> bytes:
    return payload


#: Decorated by hand, twice: neither is the object that the module calls `plain`.
short = decoder(header_length=2, length_fmt="<H")(plain)
long = decoder(header_length=8, length_fmt="!Q")(plain)


class Tag:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, value: Any) -> str:
        return f"{self.mark}{value}"


@encoder
def line(value: object) -> str:
    return f"{value}\n"


tagged = encoder(Tag("#"))


class Inner:
    @staticmethod
    @decoder()
    def nested(payload: bytes) -> bytes:
        return payload


class DecoderClass:
    """A decoder in the older form: a class with the methods, and a length that struct cannot express."""

    def header_length(self) -> int:
        return 5

    def payload_length(self, header: bytes) -> int:
        return int(struct.unpack("!5s", header)[0])

    def decode(self, payload: bytes) -> str:
        return payload.decode()
