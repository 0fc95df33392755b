"""One worker for all foreign producers, and the npm package `celery-node`, installed once per machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fundamentals.live import LiveGroup
from tests.support.server import RedisServer

#: The version whose messages were examined. Another version would need another test.
CELERY_NODE = "celery-node@0.5.9"

#: Longer than npm needs for thirty small packages over a slow line.
NPM_SECONDS = 90
NODE_SECONDS = 60


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGroup]:
    """A group with one worker. Each test uses its own key."""
    with RedisServer() as server, LiveGroup(server.url(), tmp_path_factory.mktemp("interop")) as live:
        live.start_workers(1)
        yield live
        live.print_logs()


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """The folder `node_modules` with celery-node. Skips the test only on a machine without Node.js."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js (node and npm) is not installed")
    folder = Path(tempfile.gettempdir()) / f"celery-partitions-npm-{os.getuid()}" / CELERY_NODE
    ready = folder / "ready"
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", CELERY_NODE]
        npm = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS, check=False)
        assert npm.returncode == 0, f"{CELERY_NODE} cannot be installed:\n{npm.stderr}"
        ready.touch()
    return folder / "node_modules"


@pytest.fixture
def run_node(node_packages: Path, live: LiveGroup) -> Callable[..., str]:
    """Run a script that can import celery-node. `process.argv[1]` is the broker's URL; `arguments` follow."""

    def run(script: str, *arguments: str) -> str:
        node = subprocess.run(
            ["node", "-e", script, live.settings.redis_url, *arguments],
            env={**os.environ, "NODE_PATH": str(node_packages)},
            capture_output=True,
            text=True,
            timeout=NODE_SECONDS,
            check=False,
        )
        assert node.returncode == 0, node.stderr
        return node.stdout

    return run
