"""One group, one Flower and one browser for the whole folder; each test has its own keys and browser context."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from celery_partitions.admin.pause import resume
from tests.fundamentals.live import LiveGroup
from tests.support.applications import deliveries
from tests.support.browser import Visit, chromium_path, running_chromium
from tests.support.flower import FlowerProcess
from tests.support.server import RedisServer

PARTITIONS = 4
#: "user:password" of the Flower that the tests share.
LOGIN = "operator:secret"

Visiting = Callable[..., Visit]

_numbers = count()
_failed = pytest.StashKey[bool]()


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGroup]:
    """Two workers that share four partitions."""
    env = {"PARTITIONS": PARTITIONS, "PARTITIONS_LEASE_SECONDS": 10, "PARTITIONS_STATE_SIGNING_KEY": "a-key-of-the-tests-own", "PARTITIONS_TIMELINE_BYTES": 1_000_000}
    with RedisServer() as server, LiveGroup(server.url(), tmp_path_factory.mktemp("dashboard"), **env) as live:
        for name in ("one", "two"):
            live.start_worker("-n", f"{name}@dashboard", module=deliveries.__name__)
        yield live
        live.print_logs()


@pytest.fixture(scope="package")
def flower(live: LiveGroup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowerProcess]:
    """Flower for that group, with a login, while its workers own all partitions."""
    env = {**live.env, "FLOWER_BASIC_AUTH": LOGIN}
    with FlowerProcess(deliveries.__name__, directory=tmp_path_factory.mktemp("flower"), env=env) as flower:
        for worker in live.workers:
            worker.wait_ready()
        live.wait_owned(by=len(live.workers))
        yield flower.wait_ready()
        print(flower.log()[-5000:])


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser. Tests are skipped on a machine without one; `.ci/run` fails there."""
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium is installed (on Debian: apt-get install --no-install-recommends chromium)")
    with running_chromium(path) as browser:
        yield browser


@pytest.fixture
def resumed(live: LiveGroup) -> Iterator[None]:
    """For a test that pauses: afterwards nothing is paused, even if it fails."""
    yield
    resume(live.client, live.names, [str(partition) for partition in range(PARTITIONS)], by="a test")


@pytest.fixture
def visit(request: pytest.FixtureRequest, chromium: Browser, flower: FlowerProcess) -> Iterator[Visiting]:
    """Open Flower in a new browser context: `visit(size=PHONE)`. An error on a page fails the test."""
    visits: list[Visit] = []

    def start(of: FlowerProcess = flower, login: str | None = LOGIN, **options: object) -> Visit:
        visits.append(Visit(chromium, f"http://127.0.0.1:{of.port}", login=login, **options))  # type: ignore[arg-type]
        return visits[-1]

    yield start
    for number, one in enumerate(visits):
        if request.node.stash.get(_failed, False):
            one.screenshot(f"failed-{request.node.name}-{number}")
        one.close()
    assert [complaint for one in visits for complaint in one.complaints] == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return f"account-{next(_numbers)}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path
