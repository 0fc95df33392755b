"""Wallaroo modules that are not supported: importing them raises an `ImportError` that says what to use instead."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NoReturn

KAFKA = (
    "Let a consumer of the topic send to the port of a TCPSourceConfig, or send to the source as a Celery producer. "
    "Receive outputs from a TCPSinkConfig"
)
CONNECTORS = (
    "Use TCPSourceConfig and TCPSinkConfig, and let the connector's program write or read frames over TCP. "
    "Or let it send to the source as a Celery producer"
)


def refuse(name: str, instead: str) -> NoReturn:
    """Raise the `ImportError`."""
    raise ImportError(f"{name} is not supported here. {instead}")


class AbsentModule(ModuleType):
    """An empty module. Accessing any name in it raises an `ImportError`."""

    def __init__(self, name: str, instead: str) -> None:
        super().__init__(name)
        self._instead = instead

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system and tools look these up
            raise AttributeError(name)
        refuse(f"{self.__name__}.{name}", self._instead)
