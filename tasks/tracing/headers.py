"""Reads and encodes the headers of raw messages that carry a trace. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from celery_partitions.model.message_writer import json_text
from celery_partitions.model.messages import NOT_USUAL


class _Headed(msgspec.Struct, gc=False):
    headers: dict[str, Any] = {}


_open = msgspec.json.Decoder(_Headed).decode


def headers_of(raw: bytes) -> dict[str, Any]:
    """All headers of a raw message; empty if the message cannot be decoded."""
    try:
        return _open(raw).headers
    except NOT_USUAL:
        return {}


def texts_of(headers: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """The named headers that are text. Others are ignored, because any client may write anything."""
    found = {}
    for name in names:
        value = headers.get(name)
        if type(value) is str:
            found[name] = value
    return found


def encode_headers(carrier: Mapping[str, str]) -> bytes:
    """Headers as JSON members, each with a leading comma."""
    return b"".join(b",%b:%b" % (json_text(name), json_text(value)) for name, value in carrier.items())
