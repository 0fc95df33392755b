"""PARTITIONS_METRICS_PORT: a worker serves metrics of its own partitions, by default only to this machine."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fundamentals.application import Step, record
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.server import free_port
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

Make = Callable[..., LiveGroup]


def port_of(worker: WorkerProcess) -> int:
    found = wait_until(lambda: re.search(r"metrics: served at http://127\.0\.0\.1:(\d+)/metrics", worker.log()))
    assert found is not None
    return int(found[1])


def samples(port: int) -> dict[tuple[str, str], float]:
    """(name, partition) → value; the partition is "" if there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    return {
        (sample.name, sample.labels.get("partition", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def partitions(port: int) -> set[str]:
    return {partition for name, partition in samples(port) if name == "celery_partitions_leases_held"}


def test_each_worker_serves_metrics_of_its_partitions_and_its_process(make_live: Make) -> None:
    live = make_live(PARTITIONS=3, PARTITIONS_METRICS_PORT=0)
    workers = live.start_workers(2)
    ports = [port_of(worker) for worker in workers]
    wait_until(lambda: len(partitions(ports[0])) == len(partitions(ports[1])) == 2, PATIENCE_SECONDS)
    assert partitions(ports[0]) | partitions(ports[1]) == {"0", "1", "2", "ingress"}
    live.send(record, [Step(f"key {number}", 0) for number in range(60)])
    live.wait_drained()

    def processed() -> float:
        name = "celery_partitions_messages_processed_total"
        return sum(value for port in ports for (found, _), value in samples(port).items() if found == name)

    wait_until(lambda: processed() == 60, PATIENCE_SECONDS)
    seen = samples(ports[0])
    assert seen[("celery_partitions_up", "")] == 1
    assert seen[("process_resident_memory_bytes", "")] > 1_000_000
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", ports[0]), timeout=5):
        pass  # it does not listen on other addresses


def test_a_port_in_use_is_logged_and_the_worker_works(make_live: Make) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_METRICS_PORT=free_port())
    first, second = live.start_workers(2)
    logs = [worker.log() for worker in (first, second)]
    assert sorted("metrics: served at" in log for log in logs) == [False, True]
    assert sum("metrics: not served" in log and "Set PARTITIONS_METRICS_PORT=0 to let" in log for log in logs) == 1
    live.send(record, [Step("key", 0)])
    live.wait_drained()


def test_a_host_that_is_not_on_this_machine_is_logged(make_live: Make) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_METRICS_PORT=0, PARTITIONS_METRICS_HOST="no such host")
    (worker,) = live.start_workers(1)
    assert "metrics: not served: PARTITIONS_METRICS_HOST=no such host" in worker.log()


def test_by_default_a_worker_does_not_listen(make_live: Make) -> None:
    (worker,) = make_live(PARTITIONS=1).start_workers(1)
    assert "metrics:" not in worker.log()
