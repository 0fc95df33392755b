"""A worker keeps its lease during long computations, and commits unless another took over. An idle worker does not poll."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.fundamentals.application import Deed, witness
from tests.fundamentals.live import LiveGroup
from tests.support.server import RedisServer
from tests.support.wait import wait_until
from tests.worker import frozen

Make = Callable[..., LiveGroup]


def test_a_lease_is_renewed_during_a_computation_longer_than_it(make_live: Make) -> None:
    live = make_live(PARTITIONS_LEASE_SECONDS=0.6)
    live.start_workers(2)
    owners = live.owners()
    live.send(witness, [Deed("key", 1, seconds=2.5), Deed("key", 2)])
    wait_until(lambda: live.numbers_of(witness, "key") == [1, 2])
    assert [line.partition(":")[2] for line in live.witnessed()] == ["1", "2"]
    assert live.owners() == owners


def test_a_computation_that_blocked_the_interpreter_past_the_lease_commits_if_not_replaced(make_live: Make) -> None:
    live = make_live(PARTITIONS_LEASE_SECONDS=0.6)
    worker = live.start_worker(module=frozen.__name__).wait_ready()
    live.wait_owned(by=1)
    live.send(frozen.freeze, [frozen.Freeze("key", number, 1.5) for number in range(2)])
    wait_until(lambda: live.numbers_of(frozen.freeze, "key") == [0, 1])
    assert live.processed() == 2
    assert "has taken over" not in worker.log()


def commands(live: LiveGroup) -> dict[str, int]:
    return {name.removeprefix("cmdstat_"): int(row["calls"]) for name, row in live.client.info("commandstats").items()}


def test_an_idle_worker_does_not_poll(server_factory: Callable[..., RedisServer], tmp_path: Path) -> None:
    """There are two idle seconds in which no queue is read, and almost all commands renew the lease.

    It counts all commands of a server, so the server is its own: a process of another test may still be stopping.
    """
    with LiveGroup(server_factory().url(), tmp_path, PARTITIONS_LEASE_SECONDS=5) as live:
        live.start_workers(1)
        live.send(witness, [Deed(f"key-{number}", number) for number in range(50)])
        live.wait_drained()
        def polls() -> bool:
            begun, before = time.monotonic(), commands(live)
            wait_until(lambda: time.monotonic() > begun + 2)
            after, seconds = commands(live), time.monotonic() - begun
            seen = {name: calls - before.get(name, 0) for name, calls in after.items() if calls != before.get(name, 0)}
            print(seen)
            # A point of the history, every ten seconds, looks at each queue and at its newest points.
            reads = max(seen.get("lindex", 0), seen.get("llen", 0)) > 6 * len(live.owners()) or bool(seen.keys() & {"lrange", "rpop"})
            # A renewal each third of the lease, and few other calls. Polling would be ten or more per second.
            scripts = seen.get("evalsha", 0) > 3 + 2 * seconds
            return reads or scripts or seen.get("blmove", 0) > len(live.owners()) or sum(seen.values()) > 60 * seconds

        # The last commits, and a worker's first calls, may be in the first of these windows.
        wait_until(lambda: not polls())
