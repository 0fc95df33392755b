"""The measurements of all workers are added up in Redis."""

from __future__ import annotations

import pytest
import redis

from celery_partitions.store.measurements import (
    add_measurements,
    measurements_in,
    read_recent_commits,
    request_measurements,
)
from celery_partitions.store.names import Names
from celery_partitions.store.recent_commits import MAX_KEPT, RecentCommit
from celery_partitions.store.telemetry import LATENCY_SECONDS, LastError, Measurements


def measured(seconds: float = 0.02, **more: object) -> Measurements:
    found = Measurements(**more)  # type: ignore[arg-type]
    found.latency.observe(LATENCY_SECONDS, seconds, 3)
    return found


def read(client: redis.Redis, names: Names, partition: str) -> Measurements:
    with client.pipeline() as pipe:
        request_measurements(pipe, names, ["0", "1", "ingress"])
        return measurements_in(pipe.execute(raise_on_error=False)[0], ["0", "1", "ingress"])[partition]


def test_measurements_are_added_up_per_partition(client: redis.Redis, names: Names) -> None:
    first, error = measured(takeovers=1, cache_hits=5), LastError("no", 7.25, "k", None)
    add_measurements(client, names, {"0": first, "ingress": measured(fenced=1)})
    assert read(client, names, "0") == first
    assert read(client, names, "1") == Measurements()
    add_measurements(client, names, {"0": measured(20, cache_hits=2, retried=1, last_error=error)})
    found = read(client, names, "0")
    assert found.latency.count == 6
    assert found.latency.total == pytest.approx(60.06)
    assert (found.takeovers, found.cache_hits, found.retried, found.last_error) == (1, 7, 1, error)
    assert read(client, names, "ingress").fenced == 1


def test_the_last_error_stays_until_there_is_another(client: redis.Redis, names: Names) -> None:
    for error in (LastError("one", 1, "a", "m"), None, LastError("two", 2)):
        add_measurements(client, names, {"0": Measurements(last_error=error)})
        found = read(client, names, "0").last_error
        assert found is not None
        assert found.text == ("two" if error is not None and error.at == 2 else "one")
    assert found == LastError("two", 2)


@pytest.mark.parametrize("there", [b"", b"no JSON", b"7", b'{"latency":7,"fenced":"x"}', b'{"latency":{"counts":[1],"total":1}}'])
def test_unreadable_measurements_are_replaced(client: redis.Redis, names: Names, there: bytes) -> None:
    client.hset(names.measurements, "0", there)
    add_measurements(client, names, {"0": measured(fenced=2)})
    assert read(client, names, "0") == measured(fenced=2)


def test_large_counts_stay_exact(client: redis.Redis, names: Names) -> None:
    add_measurements(client, names, {"0": Measurements(cache_hits=10**13 + 1)})
    add_measurements(client, names, {"0": Measurements(cache_hits=1)})
    assert read(client, names, "0").cache_hits == 10**13 + 2


def test_a_key_of_another_type_measures_nothing(client: redis.Redis, names: Names) -> None:
    client.set(names.measurements, "x")
    assert read(client, names, "0") == Measurements()
    with pytest.raises(redis.ResponseError):
        add_measurements(client, names, {"0": measured()})


def commit(commit_number: int, **more: object) -> RecentCommit:
    return RecentCommit(at=5.5, commit_number=commit_number, worker="w@h", token=7, taken=1, **more)  # type: ignore[arg-type]


def test_the_last_commits_of_each_partition_are_kept_newest_first(client: redis.Redis, names: Names) -> None:
    first, second = commit(1, processed=1, commit_seconds=0.001), commit(2, failed=1, error="no")
    add_measurements(client, names, {"0": measured(), "1": measured(fenced=1)}, {"0": [first], "1": [commit(9)]})
    add_measurements(client, names, {"ingress": measured(), "0": measured()}, {"0": [second]})
    assert read_recent_commits(client, names, "0") == [second, first]
    assert read_recent_commits(client, names, "1") == [commit(9)]
    assert read_recent_commits(client, names, "ingress") == []
    assert (read(client, names, "0").latency.count, read(client, names, "1").fenced) == (6, 1)
    add_measurements(client, names, {"0": measured()}, {"0": [commit(number) for number in range(3, 3 + MAX_KEPT)]})
    assert read_recent_commits(client, names, "0") == [commit(number) for number in range(2 + MAX_KEPT, 2, -1)]
    assert client.llen(names.commits("0")) == MAX_KEPT


def test_an_unreadable_commit_is_omitted(client: redis.Redis, names: Names) -> None:
    add_measurements(client, names, {"0": measured()}, {"0": [commit(1)]})
    client.lpush(names.commits("0"), b"no JSON", b'{"at": 1}', b"\xff")
    assert read_recent_commits(client, names, "0") == [commit(1)]
