"""Ours: a computation that notes in each key's state the longest wait of its messages, and whether one was out of order."""

from __future__ import annotations

import time
from dataclasses import dataclass

from celery_partitions import app, key_extractor, state_computation

__all__ = ["Deed", "Seen", "app", "note"]


@dataclass
class Deed:
    key: int
    number: int
    #: When it was sent (`time.monotonic`, one machine); 0 to fill.
    sent: float


class Seen:
    number = 0
    wrong = 0
    longest = 0.0


@key_extractor
def key_of(deed: Deed) -> int:
    return deed.key


@state_computation("note", state=Seen, key=key_of)
def note(deed: Deed, state: Seen) -> None:
    state.wrong += deed.number != state.number + 1
    state.number = deed.number
    if deed.sent:
        state.longest = max(state.longest, time.monotonic() - deed.sent)
