"""A stranger does what the README's first page says, literally, in an empty folder with the wheel installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adoption.building import INSTALL_SECONDS
from tests.adoption.project import Project
from tests.docs.pages import Block, blocks
from tests.support.worker import ROOT

pytestmark = pytest.mark.timeout(3 * INSTALL_SECONDS)


def readme_blocks(language: str) -> list[Block]:
    return [block for block in blocks(ROOT / "README.md") if block.language == language]


def test_the_readmes_first_page(environment: Path, redis_url: str, tmp_path: Path) -> None:
    example, typed, *_ = readme_blocks("python")
    worker_line, status_line = readme_blocks("sh")[0].text.splitlines()
    assert example.file is not None
    (tmp_path / example.file).write_text(example.text)
    # A person looks at the price after the worker had a moment; a script waits until it is there.
    *sending, looking = typed.text.splitlines()
    expression = looking.partition("#")[0].strip()
    wait = f"import time\nwhile {expression.removesuffix('.price')} is None or {expression} != 192.5: time.sleep(0.05)\nprint({expression})"
    (tmp_path / "typed.py").write_text("\n".join(["from stocks import *", *sending, wait]))
    with Project(tmp_path, environment, redis_url) as project:
        project.start(worker_line, REDIS_URL=redis_url).wait_for(" ready.")
        assert project.run("python typed.py", REDIS_URL=redis_url) == "192.5\n"
        assert "partition.15" in project.run(status_line, REDIS_URL=redis_url)
