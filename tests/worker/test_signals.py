"""How a worker stops: SIGTERM and SIGINT commit the current batch, SIGQUIT drops it. No message is lost; leases are released."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.fundamentals.application import Deed, Step, record, witness
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

TERM, INT, QUIT = WorkerProcess.terminate, WorkerProcess.interrupt, WorkerProcess.quit
#: A lease so long that no test waits for it.
LONG = {"PARTITIONS_LEASE_SECONDS": 60}

Make = Callable[..., LiveGroup]


def in_a_long_computation(live: LiveGroup, seconds: float) -> WorkerProcess:
    """A worker that is running the first of three messages of a key."""
    worker = live.start_workers(1)[0]
    live.send(witness, [Deed("key", number, seconds) for number in range(3)])
    live.wait_witnessed(f"{worker.pid}:0")
    return worker


@pytest.mark.parametrize("end", [TERM, INT, QUIT])
def test_an_idle_worker_ends_immediately_and_releases_everything(
    make_live: Make, end: Callable[[WorkerProcess], None]
) -> None:
    live = make_live(**LONG)
    worker = live.start_workers(1)[0]
    end(worker)
    code = worker.wait()
    assert code != -signal.SIGKILL
    assert set(live.owners().values()) == {None}
    assert live.client.zcard(live.names.workers) == 0


@pytest.mark.parametrize("end", [TERM, INT])
def test_the_running_computation_is_committed(make_live: Make, end: Callable[[WorkerProcess], None]) -> None:
    live = make_live(**LONG)
    worker = in_a_long_computation(live, seconds=1.0)
    end(worker)
    worker.wait()
    assert live.numbers_of(witness, "key") == [0]
    assert live.processed() == 1
    assert sum(row.length for row in live.status().values()) == 2
    assert set(live.owners().values()) == {None}


def test_sigquit_drops_the_running_computation_and_another_worker_repeats_it(make_live: Make) -> None:
    live = make_live(**LONG)
    worker = in_a_long_computation(live, seconds=5.0)
    worker.quit()
    worker.wait()
    assert live.numbers_of(witness, "key") == []
    assert sum(row.length for row in live.status().values()) == 3
    assert set(live.owners().values()) == {None}
    assert live.dead_letters() == []
    other = live.start_worker()
    live.wait_witnessed(f"{other.pid}:0")


def test_a_second_interrupt_drops_the_running_computation_too(make_live: Make) -> None:
    live = make_live(**LONG)
    worker = in_a_long_computation(live, seconds=30.0)
    worker.interrupt()
    wait_until(lambda: "Warm shutdown" in worker.log())
    worker.interrupt()
    worker.wait()
    assert live.numbers_of(witness, "key") == []
    assert sum(row.length for row in live.status().values()) == 3
    assert set(live.owners().values()) == {None}


@pytest.mark.parametrize("end", [TERM, INT, QUIT])
def test_a_worker_that_ends_during_a_backlog_loses_and_repeats_nothing(
    make_live: Make, end: Callable[[WorkerProcess], None]
) -> None:
    live = make_live(**LONG)
    worker = live.start_workers(1, PARTITIONS_BATCH_MESSAGES=50)[0]
    live.send(record, [Step("key", number) for number in range(20_000)])
    wait_until(lambda: live.processed() > 500, every=0.001)
    end(worker)
    worker.wait()
    done = live.numbers_of(record, "key")
    assert done == list(range(len(done)))
    assert len(done) == live.processed()
    assert len(done) + sum(row.length for row in live.status().values()) == 20_000
