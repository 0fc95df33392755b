"""The partitions' metrics among Flower's own, while workers run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fundamentals.application import Step, record
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.flower import FlowerProcess
from tests.support.server import RedisServer
from tests.support.wait import wait_until

#: Longer than the second that a result is reused, the second of waiting for a read, and a busy machine's delay.
ANSWER_SECONDS = 60.0


@pytest.fixture
def own_server(server_factory: Callable[..., RedisServer]) -> RedisServer:
    """A server that a test may stop."""
    return server_factory()


@pytest.fixture
def live(own_server: RedisServer, tmp_path: Path) -> Iterator[LiveGroup]:
    with LiveGroup(own_server.url(), tmp_path, PARTITIONS=2, PARTITIONS_REDIS_TIMEOUT_SECONDS=3) as group:
        yield group
    group.print_logs()


@pytest.fixture
def flower(live: LiveGroup, tmp_path: Path) -> Iterator[FlowerProcess]:
    with FlowerProcess("tests.fundamentals.application", directory=tmp_path, env=live.env) as one:
        yield one.wait_ready()


def sums(flower: FlowerProcess) -> dict[str, float]:
    """Each sample's sum over all labels."""
    status, text = flower.get("/metrics")
    assert status == 200, flower.log()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_counters_survive_workers_and_a_hanging_server_breaks_nothing(
    live: LiveGroup, flower: FlowerProcess, own_server: RedisServer
) -> None:
    for round_ in range(2):
        (worker,) = live.start_workers(1)
        live.send(record, [Step(f"key {number}", round_) for number in range(50)])
        found = wait_until(
            lambda: seen if (seen := sums(flower))["celery_partitions_batch_messages_sum"] == 50 * (round_ + 1) else None,  # noqa: B023
            PATIENCE_SECONDS,
        )
        assert found is not None
        assert found["celery_partitions_messages_processed_total"] == 50 * (round_ + 1)
        assert found["celery_partitions_end_to_end_seconds_count"] == 50 * (round_ + 1)
        assert found["celery_partitions_lease_takeovers_total"] == 3 * (round_ + 1)
        assert found["celery_partitions_leases_held"] == 3
        assert found["celery_partitions_state_keys"] == 50
        assert "flower_events_total" in found or "flower_worker_online" in found, "Flower's own metrics are there too"
        worker.terminate()
        worker.wait()
    wait_until(lambda: sums(flower)["celery_partitions_leases_held"] == 0, ANSWER_SECONDS)
    own_server.pause()
    found = wait_until(lambda: seen if (seen := sums(flower))["celery_partitions_up"] == 0 else None, ANSWER_SECONDS)
    assert found is not None
    assert "celery_partitions_queue_length" not in found
    own_server.resume()
    wait_until(lambda: sums(flower)["celery_partitions_up"] == 1, ANSWER_SECONDS)
