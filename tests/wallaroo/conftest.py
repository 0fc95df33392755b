"""Runs the applications in this folder, or imports them into this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

import celery_partitions.wallaroo as wallaroo
from celery_partitions.producer.pipelines import applications
from celery_partitions.runtime.registry import declared
from tests.support.tcp import Receiver
from tests.wallaroo.live import APPLICATIONS, Run


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start a run: `run("alphabet", workers=2, out=receiver.port)`."""
    with ExitStack() as stack:
        yield lambda module, *more, **options: stack.enter_context(Run(module, tmp_path, *more, **options))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import an application into this process again. Its declarations are removed after the test."""
    monkeypatch.syspath_prepend(str(APPLICATIONS))
    before = dict(declared), dict(applications), set(sys.modules), wallaroo._ARGS

    def fresh(name: str) -> ModuleType:
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    yield fresh
    for table, old in ((declared, before[0]), (applications, before[1])):
        table.clear()
        table.update(old)
    for name in set(sys.modules) - before[2]:
        if str(APPLICATIONS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    wallaroo._ARGS = before[3]
