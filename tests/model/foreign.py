"""Another module, of which states may be made when the application allows it: for `test_unpickling`."""

from __future__ import annotations

from tests.model.pickled import State

__all__ = ["Foreign", "Holder", "State"]


class Foreign:
    pass


class Holder(State):
    """A state class whose first state has an object of this module in it."""


def helper() -> Foreign:
    return Foreign()
