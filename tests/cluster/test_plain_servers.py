"""A list of plain servers as `PARTITIONS_URL`: by the same code, with a password."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from celery_partitions import SetupError
from celery_partitions.store.servers import Servers, connect_group
from celery_partitions.store.slots import Address
from celery_partitions_config.settings import Settings
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


def test_a_forked_process_does_not_take_a_server_for_dead_for_ever() -> None:
    with RedisServer() as control, RedisServer() as away, RedisServer() as there:
        settings = Settings(redis_url=control.url(), partitions_url=f"redis://{away.host}:{away.port},{there.host}:{there.port}")
        client = connect_group(settings, "partition")
        assert isinstance(client, Servers)
        try:
            client.all()[Address(away.host, away.port)].ping()
            client.lost(client.all()[Address(away.host, away.port)])
            client._process = -1  # as in a child, where the thread that asks is not
            number = next(n for n in range(100) if client.places.slot(f"partition.{n}") < 8192)  # type: ignore[operator]
            assert client.lpush(f"partition.{number}", "message") == 1
        finally:
            client.close()
