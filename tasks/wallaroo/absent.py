"""What Wallaroo had and this product does not have: importing it raises an `ImportError` that says what to use."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NoReturn

KAFKA = (
    "Let a consumer of the topic send to the port of a TCPSourceConfig, or to the source as any Celery producer does. "
    "Take outputs from a TCPSinkConfig"
)
CONNECTORS = (
    "Use TCPSourceConfig and TCPSinkConfig, and let the connector's program write or read frames over TCP. "
    "Or let it send to the source as any Celery producer does"
)


def refuse(name: str, instead: str) -> NoReturn:
    """Raise the `ImportError`."""
    raise ImportError(f"{name} is not supported here. {instead}")


class AbsentModule(ModuleType):
    """A module with nothing in it: each name asked of it raises an `ImportError`."""

    def __init__(self, name: str, instead: str) -> None:
        super().__init__(name)
        self._instead = instead

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system, and by tools
            raise AttributeError(name)
        refuse(f"{self.__name__}.{name}", self._instead)
