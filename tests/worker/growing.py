"""A computation whose message sets the size of its state."""

from __future__ import annotations

from typing import Any

from celery_partitions import app, key_extractor, state_computation

__all__ = ["app", "grow"]


class Blob:
    data = ""


@key_extractor
def key_of(message: dict[str, Any]) -> str:
    return str(message["key"])


@state_computation("grow", state=Blob, key=key_of)
def grow(message: dict[str, Any], state: Blob) -> None:
    state.data = "x" * message["size"]
