"""Sends messages at a constant rate, and records when each was sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from trades import Trade


def paced(
    messages: Sequence[Trade], rate: float, send: Callable[[Trade], Any]
) -> list[tuple[str, float, float]]:
    """Send `rate` messages per second. Returns (symbol, time before, time after) of each, on the monotonic clock."""
    sent: list[tuple[str, float, float]] = []
    begun = time.monotonic()
    for number, message in enumerate(messages):
        due = begun + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        before = time.monotonic()
        send(message)
        sent.append((message.symbol, before, time.monotonic()))
    return sent
