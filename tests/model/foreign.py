"""A module whose classes may be unpickled only if the application allows it."""

from __future__ import annotations

from tests.model.pickled import State

__all__ = ["Foreign", "Holder", "State"]


class Foreign:
    pass


class Holder(State):
    """A state class whose initial state contains an object of this module."""


def helper() -> Foreign:
    return Foreign()
