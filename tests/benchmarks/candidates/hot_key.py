"""Ours: a computation with 1 ms of work, and a note of how long each quiet key's message took. `celery -A hot_key worker`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from celery_partitions import app, key_extractor, state_computation

__all__ = ["HOT", "Deed", "app", "do"]

HOT = "hot"
WORK_SECONDS = 0.001
#: A file with the seconds from sending to the end of the call, one line for each message of a quiet key.
EFFECTS = os.environ.get("EFFECTS_FILE")
effects = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if EFFECTS else None


@dataclass
class Deed:
    key: str
    #: When it was sent (`time.monotonic`, one machine).
    sent: float


class Count:
    count = 0


@key_extractor
def key_of(deed: Deed) -> str:
    return deed.key


@state_computation("do", state=Count, key=key_of)
def do(deed: Deed, state: Count) -> None:
    until = time.monotonic() + WORK_SECONDS
    while time.monotonic() < until:
        pass
    state.count += 1
    if effects is not None and deed.key != HOT:
        os.write(effects, f"{time.monotonic() - deed.sent}\n".encode())
