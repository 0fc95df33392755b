"""The README's first page, followed literally: in a new project with the wheel, and in a fresh clone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adoption.building import INSTALL_SECONDS, copy_checkout
from tests.adoption.project import Project
from tests.support.server import free_port
from tests.support.wait import wait_until
from tests.support.worker import ROOT

pytestmark = pytest.mark.timeout(3 * INSTALL_SECONDS)

#: The first page ends where the explanation starts.
FIRST_PAGE = (ROOT / "README.md").read_text().partition("\n## How it works")[0]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", FIRST_PAGE, re.DOTALL | re.MULTILINE)
#: The address in the README's own examples.
ADDRESS = "redis://127.0.0.1:6379/0"


def files() -> dict[str, str]:
    """The files on the page. The first line of each is its name."""
    found = {}
    for language, text in BLOCKS:
        if language == "python" and (name := re.match(r"# (\S+\.py)\n", text)):
            found[name[1]] = text
    return found


def commands(program: str) -> list[str]:
    """The page's command lines that start with this program, without their comments."""
    lines = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.split()[:1] == [program]]


def session() -> str:
    """The Python session on the page. Each `# → value` becomes a check that waits until it is true."""
    (text,) = (text for language, text in BLOCKS if language == "python" and "# →" in text)
    lines = ["import time", "from stocks import *"]
    for line in text.splitlines():
        code, _, value = line.partition("# →")
        if value:
            condition = f"({code.strip().rpartition('.')[0]}) is None or ({code.strip()}) != {value.strip()}"
            lines.append(f"while {condition}: time.sleep(0.05)")
        else:
            lines.append(code.strip())
    return "\n".join(lines)


@pytest.fixture
def project(environment: Path, redis_url: str, tmp_path: Path) -> Iterator[Project]:
    """A folder with the page's files, in the environment with the wheel."""
    for name, text in files().items():
        (tmp_path / name).write_text(text.replace(ADDRESS, redis_url))
    with Project(tmp_path, environment, redis_url) as made:
        yield made


def test_the_first_page_in_a_new_project(project: Project, redis_url: str) -> None:
    assert {"stocks.py", "shop.py"} <= files().keys()
    stocks, shop = (command for command in commands("celery") if " worker" in command)
    # Without --loglevel a worker prints only its banner.
    worker = project.start(stocks, REDIS_URL=redis_url)
    worker.wait_for("concurrency: 1")
    (project.folder / "session.py").write_text(session())
    project.run("python session.py", REDIS_URL=redis_url)
    assert "partition.0" in project.run("celery -A stocks partitions status", REDIS_URL=redis_url)
    assert "celery -A stocks partitions status" in commands("celery")
    worker.kill()  # the two files are two projects: workers of one do not have the computations of the other
    project.start(shop).wait_for("concurrency: 1")
    # A ping before the worker has subscribed is lost.
    wait_until(lambda: "pong" in project.run("celery -A shop inspect ping --timeout 2 || true"), timeout=60)


def test_the_first_page_in_a_fresh_clone(tmp_path: Path) -> None:
    assert commands("make") == ["make demo", "make dev"]
    copy_checkout(clone := tmp_path / "clone")
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    # Without the programs of the environment that runs the tests.
    path = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if ".venv" not in folder)
    variables = {**kept, "PATH": path, "PORT": str(free_port())}
    demo = subprocess.run(["make", "demo"], cwd=clone, env=variables, capture_output=True, text=True, timeout=2 * INSTALL_SECONDS)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "12154/12154" in demo.stderr, "the progress bar does not show its total"
    verdict, _, _, *following = demo.stdout.splitlines()[-6:]
    assert verdict == "All states equal those of a plain Python loop over the same messages."
    assert [line.split()[0] for line in following] == ["make"] * 3
    screen = clone / "screen"
    with screen.open("wb") as output:
        dev = subprocess.Popen(
            ["make", "dev"], cwd=clone, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until(
            lambda: "Ctrl-C stops everything" in screen.read_text() or dev.poll() is not None, 120, message="make dev is not ready"
        )
        assert dev.poll() is None, screen.read_text()
    finally:
        os.killpg(dev.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        dev.wait(60)
