"""The declarations of a user's module, for the tests of producers."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import msgspec
import redis

from celery_partitions import computation, key_extractor, state_computation


@dataclass
class Trade:
    symbol: str
    price: float
    account: uuid.UUID | None = None


class Last:
    price = 0.0


@key_extractor
def symbol_of(trade: Trade) -> str:
    if not trade.symbol:
        raise ValueError("a trade of nothing")
    return trade.symbol


@state_computation("tests.producer: update", state=Last, key=symbol_of)
def update(trade: Trade, state: Last) -> None:
    """Keep the last price."""
    state.price = trade.price


@computation("tests.producer: note", key=lambda message: message["key"])
def note(message: dict[str, Any]) -> None:
    """A computation without a type and without state."""


def partition(key: str) -> int:
    """The partition of a key by the documented rule, in plain Python, for four partitions."""
    return crc32(key.encode()) % 4


def raws(client: redis.Redis, queue: str) -> list[bytes]:
    """The messages of a queue, oldest first."""
    return client.lrange(queue, 0, -1)[::-1]  # type: ignore[index]


def envelopes(client: redis.Redis, queue: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(raw) for raw in raws(client, queue)]


def queues(client: redis.Redis) -> dict[str, int]:
    """Each list with messages, and how many there are."""
    return {key.decode(): client.llen(key) for key in client.scan_iter(_type="list")}  # type: ignore[misc]
