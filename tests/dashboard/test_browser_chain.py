"""The path of a message through a pipeline, on Flower's own task pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.dashboard.conftest import Visiting
from tests.fundamentals.live import LiveGroup
from tests.support.applications import pipelines
from tests.support.flower import FlowerProcess
from tests.support.server import RedisServer
from tests.support.wait import wait_until

#: Longer than Flower needs to see its workers, on a busy machine.
PATIENCE_SECONDS = 60.0


@pytest.fixture
def words(tmp_path: Path) -> Iterator[LiveGroup]:
    """A worker that counts words: each line is split, and each word is a hop to its own key."""
    with RedisServer() as server, LiveGroup(server.url(), tmp_path, PARTITIONS=2) as live:
        live.start_worker(module=pipelines.__name__).wait_ready()
        live.wait_owned(by=1)
        yield live
        live.print_logs()


@pytest.fixture
def flower_of_words(words: LiveGroup, tmp_path: Path) -> Iterator[FlowerProcess]:
    with FlowerProcess(pipelines.__name__, directory=tmp_path, env=words.env) as flower:
        yield flower.wait_ready()


def test_a_message_links_to_its_outputs_and_back_to_its_root(
    words: LiveGroup, flower_of_words: FlowerProcess, visit: Visiting
) -> None:
    sent: list[str] = []

    def known() -> str | None:
        """A message that Flower knows with all its hops. Flower misses events sent before it listened."""
        sent.append(f"line-{len(sent)}")
        words.app.send_task("lines", args=["to be or"], queue="partition", task_id=sent[-1])
        return next((root for root in sent if all(is_known(one) for one in (root, *hops_of(root)))), None)

    def hops_of(root: str) -> list[str]:
        return [f"{root}:{number}" for number in range(3)]

    def is_known(task_id: str) -> bool:
        return flower_of_words.get(f"/task/{task_id}")[0] == 200

    root = wait_until(known, PATIENCE_SECONDS, every=0.5, message="Flower does not know a message and its hops")
    assert root is not None
    page = visit(of=flower_of_words, login=None).open(f"/task/{root}")
    for hop in hops_of(root):
        expect(page.get_by_role("link", name=hop, exact=True)).to_be_visible()
    page.get_by_role("link", name=f"{root}:1", exact=True).click()
    details = page.locator("#task-page")
    expect(details).to_contain_text("count")
    expect(details).to_contain_text('key=be ["be"]')
    page.get_by_role("link", name=root, exact=True).first.click()
    expect(details).to_contain_text("key=lines ['to be or']")
