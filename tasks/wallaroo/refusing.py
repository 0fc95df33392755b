"""What Wallaroo had and this product has not: it can be imported and named, and says so when it is used."""

from __future__ import annotations

from typing import Any

from celery_partitions.wallaroo.computations import WallarooParameterError


class Refused:
    """Base of a class that can't be made here; `instead`: what to use."""

    instead = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        refuse(type(self).__name__, self.instead)


def refuse(what: str, instead: str) -> None:
    """Raise `WallarooParameterError` that says what to use."""
    raise WallarooParameterError(f"{what} is not supported here. {instead}")
