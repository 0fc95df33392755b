"""Rate limits counted from outside, with several workers, while one is killed. That nearly all of a limit is used is tested on virtual time
(`tests/store/test_tokens.py`): a slow machine may use less."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fundamentals.live import LiveGroup
from tests.support.applications import limited
from tests.support.applications.limited import HOST_RATE, KEY_RATE, STARTED, Request, per_host, per_key
from tests.support.wait import wait_until

#: How much later than its token a call may start, on a busy machine.
LATE_SECONDS = 0.5


@pytest.fixture
def live(redis_url: str, make_live: Callable[..., LiveGroup]) -> LiveGroup:
    return make_live(redis_url, PARTITIONS=2, PARTITIONS_LEASE_SECONDS=1)


def starts(live: LiveGroup) -> dict[str, list[float]]:
    """When calls started, by bucket."""
    found: dict[str, list[float]] = {}
    for line in live.client.lrange(STARTED, 0, -1):  # type: ignore[union-attr]
        bucket, at = line.decode().rsplit(" ", 1)
        found.setdefault(bucket, []).append(float(at))
    return {bucket: sorted(times) for bucket, times in found.items()}


def check(times: list[float], rate: float, burst: int, span: float) -> None:
    for first, began in enumerate(times):
        count = sum(began <= at < began + span for at in times[first:])
        assert count <= burst + 1 + rate * (span + LATE_SECONDS)


def test_no_limit_is_exceeded_while_a_worker_is_killed(live: LiveGroup) -> None:
    workers = live.start_workers(2, module=limited.__name__)
    for number in range(60):
        live.send(per_key, [Request("ada", number), Request("bob", number)])
    messages = [Request(f"customer-{number % 30}", number) for number in range(120)]
    live.send(per_host, messages)
    wait_until(lambda: all(len(times) >= 15 for times in starts(live).values()) and len(starts(live)) == 3)
    rows = live.group.status()
    assert sum(row.parked for row in rows) == 0
    assert sum(row.running for row in rows) > 2  # they wait for their turn: nothing has gone wrong
    workers[0].kill()
    live.wait_drained()
    assert live.numbers(per_key) == {"ada": list(range(60)), "bob": list(range(60))}
    assert live.numbers(per_host) == {f"customer-{key}": [number for number in range(120) if number % 30 == key] for key in range(30)}
    found = starts(live)
    for span in (0.2, 1.0, 3.0):
        check(found["key:ada"], KEY_RATE, 1, span)
        check(found["key:bob"], KEY_RATE, 1, span)
        check(found["host:one"], HOST_RATE, 2, span)
