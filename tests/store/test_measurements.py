"""What workers measured is added up in Redis, whoever measured it."""

from __future__ import annotations

import pytest
import redis

from tasks.model.measurements import LATENCY_SECONDS, LastError, Measurements
from tasks.store.measurements import add_measurements, ask_measurements, measurements_in
from tasks.store.names import Names


def measured(seconds: float = 0.02, **more: object) -> Measurements:
    found = Measurements(**more)  # type: ignore[arg-type]
    found.latency.observe(LATENCY_SECONDS, seconds, 3)
    return found


def read(client: redis.Redis, names: Names, unit: str) -> Measurements:
    with client.pipeline() as pipe:
        ask_measurements(pipe, names, ["0", "1", "ingress"])
        return measurements_in(pipe.execute(raise_on_error=False)[0], ["0", "1", "ingress"])[unit]


def test_it_adds_up_unit_by_unit(client: redis.Redis, names: Names) -> None:
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
def test_what_can_not_be_read_there_begins_anew(client: redis.Redis, names: Names, there: bytes) -> None:
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
