"""Pipelines on a cluster: a source that is killed half-way, hops, a list, and a sink with its own process."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from tests.fundamentals.live import PATIENCE_SECONDS
from tests.sources.conftest import LiveEnds
from tests.sources.test_tcp import counted, pairs, received
from tests.support.cluster import RedisCluster
from tests.support.server import RedisServer
from tests.support.tcp import Receiver, sender
from tests.support.wait import wait_until

COUNT = 20_000


def test_a_file_through_a_cluster_into_a_list_and_messages_into_a_sink(cluster: RedisCluster, tmp_path: Path) -> None:
    lines, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines.write_text("".join(f'{{"key": "key-{number % 7}", "number": {number}}}\n' for number in range(COUNT)))
    with (
        RedisServer() as control,
        LiveEnds(control.url(), tmp_path, PARTITIONS_GROUP="ends", PARTITIONS_URL=cluster.url(), SOURCE_FILE=lines, SINK_FILE=out) as live,
    ):
        live.start_worker()
        source = live.start_end("source", "lines of a file")
        wait_until(lambda: live.client.llen("lines read") > 0, PATIENCE_SECONDS)
        source.kill()
        live.start_end("source", "lines of a file")
        sink = live.start_end("sink", "file")
        live.send_plain([{"key": f"key-{number % 3}", "number": number} for number in range(600)])
        wait_until(lambda: live.client.llen("lines read") >= COUNT, PATIENCE_SECONDS, message="the file is not read")
        of_key: dict[str, list[int]] = defaultdict(list)
        for line in reversed(live.client.lrange("lines read", 0, -1)):
            message = json.loads(line)
            of_key[message["key"]].append(message["number"])
        assert of_key == {f"key-{key}": list(range(key, COUNT, 7)) for key in range(7)}
        wait_until(lambda: out.exists() and len(out.read_text().splitlines()) >= 600, PATIENCE_SECONDS, message=sink.log())
        assert len(set(out.read_text().splitlines())) == 600


def test_a_tcp_source_and_a_tcp_sink(cluster: RedisCluster, tmp_path: Path) -> None:
    with (
        RedisServer() as control,
        LiveEnds(control.url(), tmp_path, PARTITIONS_GROUP="tcp", PARTITIONS_URL=cluster.url()) as live,
    ):
        live.start_worker()
        _, port = live.start_listening()
        live.start_end("sink", "out")
        receiver = Receiver(live.sink_port)
        with receiver, sender(port) as connection:
            for start in range(0, 3000, 1000):
                connection.sendall(pairs(range(start, start + 1000)))
            wait_until(lambda: len(receiver.frames) >= 3000, PATIENCE_SECONDS)
        assert received(receiver) == counted(3000)
