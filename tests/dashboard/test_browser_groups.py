"""The table of partitions in groups: by worker if the reader chooses, by server where there are several."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.dashboard.conftest import LOGIN, PARTITIONS, Visiting
from tests.fundamentals.live import LiveGroup
from tests.support.applications import deliveries
from tests.support.flower import FlowerProcess
from tests.support.server import RedisServer

HEADINGS = "#partitions-table tr.partitions-group"


def under(page: Page, group: str) -> list[str]:
    """The rows under a heading."""
    script = """(group) => { const found = []; let row = document.querySelector(`tr[data-group="${group}"]`).nextElementSibling;
        while (row && !row.dataset.group) { found.push(row.dataset.partition); row = row.nextElementSibling; } return found; }"""
    return list(page.evaluate(script, group))


def test_by_worker_and_the_address_keeps_it(visit: Visiting, live: LiveGroup) -> None:
    page = visit().open("/partitions")
    expect(page.locator("#partitions-table tbody tr")).to_have_count(PARTITIONS + 1)
    expect(page.locator(HEADINGS)).to_have_count(0)  # one server
    page.get_by_label("Group by").select_option("worker")
    expect(page.locator(HEADINGS)).to_have_count(2)
    expect(page).to_have_url(re.compile("#by=worker$"))
    owners = {queue.rpartition(".")[2]: owner for queue, owner in live.owners().items()}
    for name in set(owners.values()):
        assert set(under(page, str(name))) - {"ingress"} == {partition for partition, owner in owners.items() if owner == name and partition.isdigit()}
    page.reload()
    expect(page.locator(HEADINGS)).to_have_count(2)
    expect(page.get_by_label("Group by")).to_have_value("worker")


def test_by_server_where_there_are_several_and_a_server_that_is_away(visit: Visiting, tmp_path: Path) -> None:
    with RedisServer() as control, RedisServer() as one, RedisServer() as other:
        url = f"redis://{one.host}:{one.port},{other.host}:{other.port}"
        with LiveGroup(control.url(), tmp_path, PARTITIONS=PARTITIONS, PARTITIONS_URL=url) as live:
            live.group.check()
            at = {partition: live.client.address(live.names.queue(partition)) for partition in map(str, range(PARTITIONS))}
            with FlowerProcess(deliveries.__name__, directory=tmp_path, env={**live.env, "FLOWER_BASIC_AUTH": LOGIN}) as flower:
                flower.wait_ready()
                page = visit(flower).open("/partitions")
                expect(page.locator(HEADINGS)).to_have_count(len(set(at.values())) + 1)
                expect(page.get_by_label("Group by")).to_have_value("server")
                assert under(page, "control server") == ["ingress"]
                for server in set(at.values()):
                    assert set(under(page, server)) == {partition for partition in at if at[partition] == server}
                    expect(page.locator(f"tr[data-group='{server}'] .badge")).to_have_text("answers")
                gone = next(iter(at.values()))
                (one if gone.endswith(f":{one.port}") else other).stop()
                expect(page.locator(f"tr[data-group='{gone}'] .badge")).to_have_text("does not answer", timeout=30_000)
                page.get_by_label("Group by").select_option("nothing")
                expect(page.locator(HEADINGS)).to_have_count(0)
                page.close()
