"""A wheel, a fresh environment with that wheel and the frameworks, and projects as users lay them out.

Wheel and environment are created once per run, even if pytest-xdist uses several processes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.adoption.building import Distributions, build_distributions, make_environment
from tests.adoption.project import Project

#: These files belong to users: their own pytest runs collect them, not ours.
collect_ignore = ["layouts"]

LAYOUTS = Path(__file__).with_name("layouts")
#: The requirements of the layouts besides the wheel.
FRAMEWORKS = ("django", "fastapi", "flask", "httpx", "pytest", "pytest-django")


def _once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills. The first process of the run that needs it creates it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make(folder)
    return folder


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The source distribution, and the wheel that was built from it."""
    return Distributions(_once(tmp_path_factory, "distributions", build_distributions))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, distributions: Distributions) -> Path:
    """A virtual environment with the wheel and the frameworks, and nothing from this checkout."""
    words = (f"{distributions.wheel}[testing]", *FRAMEWORKS)
    return _once(tmp_path_factory, "environment", lambda folder: make_environment(folder, *words))


@pytest.fixture
def start_project(environment: Path, redis_url: str, tmp_path: Path) -> Iterator[Callable[[str], Project]]:
    """Copy a layout into a new folder: `start_project("django")`. The processes it starts are killed at the end."""
    with ExitStack() as stack:

        def start(layout: str) -> Project:
            project = Project.copied(LAYOUTS / layout, tmp_path / layout, environment, redis_url)
            return stack.enter_context(project)

        yield start
