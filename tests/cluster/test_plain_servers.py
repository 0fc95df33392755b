"""A list of plain servers as `PARTITIONS_URL`: by the same code, with a password."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from celery_partitions import SetupError
from tests.fundamentals.application import Sale, sell
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.server import RedisServer
from tests.support.wait import wait_until


def test_messages_between_plain_servers_and_the_order_of_the_list(tmp_path: Path) -> None:
    with ExitStack() as stack:
        control, *servers = (stack.enter_context(RedisServer(config=more)) for more in ({}, *[{"requirepass": "secret word"}] * 2))
        places = [f"{server.host}:{server.port}" for server in servers]

        def live_with(places: list[str]) -> LiveGroup:
            url = f"redis://:secret%20word@{','.join(places)}/3"
            return stack.enter_context(LiveGroup(control.url(), tmp_path, PARTITIONS=8, PARTITIONS_URL=url))

        live = live_with(places)
        live.start_worker().wait_ready()
        totals = [f"{number}-total" for number in range(8)]
        live.send(sell, [Sale("key", number, fails=False, forward_to=total) for number in range(50) for total in totals])
        wait_until(lambda: all(live.numbers_of(sell, total) == list(range(50)) for total in totals), PATIENCE_SECONDS)
        for server in servers:
            with server.client(db=3) as client:
                assert list(client.scan_iter("{partition.*}:state:sell"))
        other = live_with(places[::-1])
        with pytest.raises(SetupError, match="was number"):
            other.group.check()
        worker = other.start_worker()
        assert worker.wait() == 1
        assert "was number" in worker.log()
        live.print_logs()
