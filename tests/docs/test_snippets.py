"""Every code block of README.md and of the guides is typed unchanged, while a worker runs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import EXAMPLE_URL, Block, all_blocks, page_name, page_paths
from tests.interop.conftest import node_packages
from tests.support.server import RedisServer
from tests.support.worker import ROOT, WorkerProcess

__all__ = ["node_packages"]

#: The languages of blocks that are typed. Blocks in other languages show output, configuration or messages.
TYPED = {"python", "sh", "js"}

#: Blocks that no test types: their first line → the reason.
NOT_TYPED: dict[str, str] = {
    "with context.send_now():": "a part of a computation",
    "celery -A savings partitions remove save --yes": "the code of the page still has it; tests/worker/test_deploys.py",
    '@state_computation(name="deposit", formerly="save", state=Account, key=account)': "the same computation as on the page before, renamed",
    "@app.task(acks_late=True, bind=True, max_retries=5)": "what the reader has and replaces; it needs their Redis client",
    "APP=shop.orders CODE=../shop FLOWER_BASIC_AUTH=me:secret PARTITIONS_STATE_SIGNING_KEY=… docker compose up --build": "Docker is not on every machine; tests/deployment reads the file",
}

#: Longer than typing all pages on a busy machine.
TYPING_SECONDS = 240

#: Files that the pages' examples expect.
DATA = {
    "prices.csv": "symbol,price\nAAPL,191.2\nMSFT,410.5\n",
    "book.txt": "the cat and the dog\na cat\n",
}


def typed_blocks() -> list[Block]:
    return [one for one in all_blocks() if one.language in TYPED and one.text.partition("\n")[0] not in NOT_TYPED]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that the pages show."""
    folder = tmp_path_factory.mktemp("docs")
    modules = []
    for block in typed_blocks():
        if block.file is None:
            continue
        path = folder / block.file
        assert not path.exists() or path.read_text() == block.text, f"{block.where}: another {block.file} is on another page"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        has_own_app = "install(" in block.text and "Celery(" in block.text
        if not has_own_app and not block.file.startswith("test_") and "celery_partitions" in block.text:
            modules.append(block.file.removesuffix(".py").replace("/", "."))
    imports = "".join(f"import {name}\n" for name in dict.fromkeys(modules))
    (folder / "guides.py").write_text(f"from celery_partitions import app\n{imports}")
    for name, text in DATA.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def outcomes(project: Path, server: RedisServer, node_packages: Path) -> dict[str, str]:
    """The place of each block → what failed, or "". One process types all blocks once."""
    for path in project.rglob("*.py"):
        path.write_text(path.read_text().replace(EXAMPLE_URL, server.url()))
    blocks = project / "blocks.json"
    blocks.write_text(json.dumps([dataclasses.asdict(block) for block in typed_blocks()]))
    env = {
        "REDIS_URL": server.url(),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(project))),
        "NODE_PATH": str(node_packages),
    }
    with WorkerProcess("guides", directory=project, env=env) as worker:
        worker.wait_ready()
        done = subprocess.run(
            [sys.executable, "-m", "tests.docs.snippets", blocks],
            cwd=project,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=TYPING_SECONDS,
        )
        assert done.returncode == 0, f"{done.stderr}\n{worker.log_tail()}"
    return {one["where"]: one["error"] for one in map(json.loads, done.stdout.splitlines())}


@pytest.mark.timeout(TYPING_SECONDS + 60)
@pytest.mark.parametrize("page", [page_name(path) for path in page_paths()])
def test_each_block_does_what_the_page_says(page: str, outcomes: dict[str, str]) -> None:
    failed = {where: error for where, error in outcomes.items() if where.startswith(f"{page}:") and error}
    assert not failed, "\n\n".join(f"{where}\n{error}" for where, error in failed.items())


def test_the_users_tests_that_the_guides_show_pass(project: Path, server: RedisServer) -> None:
    tests = sorted(str(path) for path in project.glob("test_*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *tests],
        cwd=project,
        env={**os.environ, "REDIS_URL": server.url(), "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=TYPING_SECONDS,
    )
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout + done.stderr


def test_the_blocks_that_are_not_typed_exist() -> None:
    first_lines = {block.text.partition("\n")[0] for block in all_blocks()}
    assert set(NOT_TYPED) <= first_lines
