"""The Prometheus metrics: names, labels, and what a scrape returns if Redis does not answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from celery_partitions.admin.metrics import PREFIX
from celery_partitions.admin.prometheus import GroupCollector
from celery_partitions.runtime.group import Group
from celery_partitions.store.history import add_points
from celery_partitions.store.leases import balance, remember_computations
from celery_partitions.store.measurements import add_measurements
from celery_partitions.store.names import Names
from celery_partitions.store.telemetry import LATENCY_SECONDS, ComputationMeasurements, Measurements
from celery_partitions.store.worker_reports import WorkerReport, dump_report
from celery_partitions_config.settings import Settings
from tests.support.server import RedisServer


@pytest.fixture
def group(settings: Settings, client: redis.Redis) -> Group:
    return Group(settings)


def registered(collector: GroupCollector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)
    return registry


def value(registry: CollectorRegistry, name: str, partition: str = "1", **labels: str) -> float | None:
    return registry.get_sample_value(PREFIX + name, {"group": "partition", "partition": partition, **labels})


def test_every_metric_of_a_partition(group: Group, client: redis.Redis, names: Names) -> None:
    remember_computations(client, names, ["one"])
    counters = {"processed": 70, "failed": 6, "forwarded": 5, "emitted": 4, "deduplicated": 3, "skipped": 2, "dead": 1, "late": 14}
    client.hset(names.meta("1"), mapping={**counters, "paused": 1})
    client.lpush("partition.1", "no message")
    client.hset(names.states("1", "one"), mapping={"k": "1" * 5000})
    client.hset(names.parked("1"), mapping={"k": "{}", "l": "{}"})
    client.hset(names.dead("1"), mapping={"1-0-0": "{}"})
    client.zadd(names.delayed("1"), {"x": 1})
    balance(client, names, "node@host/u", lease_seconds=60, partitions=4, pins=["1"])
    measured = Measurements(takeovers=8, fenced=9, cache_hits=10, cache_misses=11, retried=12, removals=13)
    measured.latency.observe(LATENCY_SECONDS, 0.02, 7)
    add_measurements(client, names, {"1": measured})
    registry = registered(GroupCollector(group))
    found = {
        name: value(registry, name)
        for name in (
            "messages_processed_total", "messages_failed_total", "messages_forwarded_total", "messages_emitted_total",
            "messages_deduplicated_total", "messages_skipped_total", "messages_dead_lettered_total", "lease_takeovers_total",
            "fenced_commits_total", "state_cache_hits_total", "state_cache_misses_total", "messages_retried_total",
            "foreign_removals_total", "messages_late_total",
            "queue_length", "delayed_messages", "dead_letters", "parked_keys", "state_keys", "paused", "leases_held",
        )
    }  # fmt: skip
    assert list(found.values()) == [70, 6, 5, 4, 3, 2, 1, 8, 9, 10, 11, 12, 13, 14, 1, 1, 1, 2, 1, 1, 1]
    assert value(registry, "oldest_message_age_seconds") is None, "its oldest message has no time of sending"
    assert value(registry, "oldest_message_age_seconds", "0") == 0
    assert value(registry, "leases_held", "0") == 0
    assert (value(registry, "state_bytes") or 0) > 5000
    assert value(registry, "end_to_end_seconds_bucket", le="0.01") == 0
    assert value(registry, "end_to_end_seconds_bucket", le="0.025") == 7
    assert value(registry, "end_to_end_seconds_bucket", le="+Inf") == value(registry, "end_to_end_seconds_count") == 7
    assert value(registry, "end_to_end_seconds_sum") == pytest.approx(0.14)
    assert registry.get_sample_value(PREFIX + "up", {"group": "partition"}) == 1


def test_both_formats_can_be_parsed_and_no_label_is_a_key(group: Group) -> None:
    registry = registered(GroupCollector(group))
    old = list(text_string_to_metric_families(generate_latest(registry).decode()))
    new = list(read_openmetrics(generate_openmetrics(registry).decode()))
    for one in [*old, *new]:
        assert one.documentation
        for sample in one.samples:
            assert sample.name.startswith(PREFIX)
            assert sample.labels.keys() <= {"group", "partition", "le", "rule"}
            assert sample.labels.get("partition", "0") in {"0", "1", "2", "3", "ingress"}


def test_the_metrics_of_the_whole_group(group: Group, client: redis.Redis, names: Names) -> None:
    balance(client, names, "node@host/u", lease_seconds=60, partitions=4, pins=["1"])
    add_measurements(client, names, {}, {}, {"pay": ComputationMeasurements(processed=9, failed=2, dead=1)})
    report = WorkerReport(1.0, 1.0, "host", 7, "1.0", "abcd", "3.11", in_flight={"call": 3}, concurrency={"call": 50})
    add_points(client, names, {}, {}, worker="node@host/u", report=dump_report(report))
    registry = registered(GroupCollector(group))

    def of(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(PREFIX + name, {"group": "partition", **labels})

    assert of("attention", rule="no-owner") == 4
    assert of("attention", rule="stalled") == 0
    counters = ("processed", "failed", "dead_lettered")
    assert [of(f"computation_messages_{one}_total", computation="pay") for one in counters] == [9, 2, 1]
    assert (of("calls_in_flight", computation="call"), of("calls_limit", computation="call")) == (3, 50)
    worker = registered(GroupCollector(group, only=lambda: ["1"]))
    assert "attention" not in generate_latest(worker).decode(), "a worker exports only its partitions"


def test_only_the_requested_partitions_are_exported_even_if_there_are_none(group: Group) -> None:
    held: list[str] = ["2", "ingress"]
    collector = GroupCollector(group, only=lambda: held)
    registry = registered(collector)
    assert value(registry, "queue_length", "2") == value(registry, "queue_length", "ingress") == 0
    assert value(registry, "queue_length", "1") is None
    empty = registered(GroupCollector(group, only=list))
    assert value(empty, "queue_length", "1") is None
    assert empty.get_sample_value(PREFIX + "up", {"group": "partition"}) == 1


def test_simultaneous_scrapes_cost_one_read(group: Group, client: redis.Redis) -> None:
    registry = registered(GroupCollector(group))
    assert value(registry, "queue_length") == 0
    client.lpush("partition.1", "one")
    assert value(registry, "queue_length") == 0, "a second old at most"


def test_an_unreadable_group_exports_only_up_0(
    group: Group, client: redis.Redis, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    client.hset(names.group_meta, "partitions", 7)
    registry = registered(GroupCollector(group))
    assert registry.get_sample_value(PREFIX + "up", {"group": "partition"}) == 0
    assert value(registry, "queue_length") is None
    assert "has 7 partitions" in caplog.text


def test_a_hanging_server_does_not_block_a_scrape_for_long(server_factory: Callable[..., RedisServer]) -> None:
    own_server = server_factory()
    collector = GroupCollector(Group(Settings(redis_url=own_server.url())), wait_seconds=0.2)
    registry = registered(collector)
    assert value(registry, "queue_length") == 0
    own_server.pause()
    collector._read_at = 0.0  # a second later
    assert registry.get_sample_value(PREFIX + "up", {"group": "partition"}) == 0
    assert collector._read_thread is not None and collector._read_thread.is_alive(), "the scrape did not wait for it"
    own_server.resume()
    collector._read_thread.join()
    assert registry.get_sample_value(PREFIX + "up", {"group": "partition"}) == 1
    own_server.kill()
    collector._read_at = 0.0
    assert registry.get_sample_value(PREFIX + "up", {"group": "partition"}) == 0
