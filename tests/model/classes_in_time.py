"""State classes as they were at different times: a module whose source changes."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_partitions.model import versions
from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare

IMPORTS = (
    "import attrs, msgspec, pydantic, pydantic.dataclasses\n"
    "from dataclasses import dataclass, field\n"
    "from celery_partitions import migrates, state\n"
)


class Code:
    """The modules of an application. `at` deploys other code of one of them."""

    def __init__(self) -> None:
        self.modules: set[str] = set()

    def at(self, source: str, module: str = "tests.model.code_in_time", state: str = "State") -> Computation:
        """The computation whose state is a class of this module with this source. Classes of earlier sources are gone."""
        self.remove(module)
        versions._renamed.clear()
        made: Any = types.ModuleType(module)
        sys.modules[module] = made
        self.modules.add(module)
        exec(IMPORTS + source, made.__dict__)
        return declare(lambda message, state: None, name="count", state=getattr(made, state), key=str)

    def remove(self, module: str) -> None:
        sys.modules.pop(module, None)


@contextmanager
def code_in_time() -> Iterator[Code]:
    code, renamed = Code(), dict(versions._renamed)
    try:
        yield code
    finally:
        for module in code.modules:
            code.remove(module)
        versions._renamed.clear()
        versions._renamed.update(renamed)
