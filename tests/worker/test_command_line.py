"""A worker's command line: all partitions, some or none, and the options that it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until
from tests.worker import foreign

ALL = {"partition.0", "partition.1", "partition.2", "partition.3", "partition"}


def held(live: LiveGroup) -> set[str]:
    return {queue for queue, owner in live.owners().items() if owner is not None}


def test_a_single_worker_owns_everything(live: LiveGroup) -> None:
    live.start_worker().wait_ready()
    wait_until(lambda: held(live) == ALL)


def test_the_group_by_name_is_the_same(live: LiveGroup) -> None:
    live.start_worker("-Q", "partition").wait_ready()
    wait_until(lambda: held(live) == ALL)


def test_a_worker_pinned_to_one_partition_owns_only_that(live: LiveGroup) -> None:
    live.start_worker("-Q", "partition.2").wait_ready()
    wait_until(lambda: held(live) == {"partition.2"})
    live.send(record, [Step(f"key-{number}", number) for number in range(40)])
    wait_until(lambda: live.status()["partition.2"].length == 0)
    waiting = [queue for queue, row in live.status().items() if row.length]
    assert waiting == ["partition.0", "partition.1", "partition.3"]
    assert held(live) == {"partition.2"}


def test_a_pinned_worker_takes_its_partitions_from_a_worker_that_owns_all(live: LiveGroup) -> None:
    live.start_worker().wait_ready()
    pinned = live.start_worker("-Q", "partition.2,partition.3", "-n", "pinned@%h").wait_ready()

    def pinned_hold() -> set[str]:
        return {queue for queue, owner in live.owners().items() if owner is not None and owner.startswith("pinned@")}

    wait_until(lambda: pinned_hold() == {"partition.2", "partition.3"})
    wait_until(lambda: held(live) == ALL)
    pinned.terminate()
    pinned.wait()
    live.wait_owned(by=1)


def test_other_queues_are_consumed_together_with_the_partitions(live: LiveGroup) -> None:
    live.start_worker("-Q", "partition,emails").wait_ready()
    result = live.app.send_task("plain", args=[5], queue="emails")
    assert result.get(timeout=60) == 5
    assert held(live) == ALL


def test_a_worker_of_other_queues_owns_no_partition(live: LiveGroup) -> None:
    worker = live.start_worker("-Q", "celery", "-P", "threads", "-c", "2").wait_ready()
    assert live.app.send_task("plain", args=[5]).get(timeout=60) == 5
    assert held(live) == set()
    assert not live.client.exists(live.names.workers)
    assert worker.running


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-P", "threads"), "needs the solo pool, but this one uses thread. Start it with -P solo -c 1"),
        # Celery cannot distinguish `-P prefork` from its default, and the app's own pool is solo.
        (("-P", "prefork", "-c", "2"), "has a concurrency of 2. Start it with -P solo -c 1"),
        (("-c", "4"), "has a concurrency of 4. Start it with -P solo -c 1"),
        (("-Q", "partition.4"), "-Q partition.4: no such partition. There are 4 partitions, numbered from 0 (PARTITIONS)"),
    ],
)
def test_invalid_options_are_refused_with_what_to_do(live: LiveGroup, arguments: tuple[str, ...], text: str) -> None:
    worker = live.start_worker(*arguments)
    assert worker.wait(timeout=60) not in (0, None)
    assert text in " ".join(worker.log().split())
    assert held(live) == set()


def test_a_worker_without_partitions_leaves_their_queues_alone(live: LiveGroup) -> None:
    live.start_worker("-X", "partition").wait_ready()
    assert held(live) == set()
    (queues,) = live.app.control.inspect(timeout=60, limit=1).active_queues().values()
    assert [queue["name"] for queue in queues] == ["celery"]


def test_another_number_of_partitions_is_refused(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=4)
    live.start_workers(1)
    other = live.start_worker(PARTITIONS=5)
    assert other.wait(timeout=60) not in (0, None)
    assert "has 4 partitions in this Redis, but this process was started with PARTITIONS=5" in other.log()


def test_plain_workers_of_an_installed_app_are_unchanged(live: LiveGroup) -> None:
    worker = live.start_worker("-c", "2", module=foreign.__name__).wait_ready()
    assert "concurrency: 2 (prefork)" in worker.log()
    assert live.app.send_task("add", args=[2, 3]).get(timeout=60) == 5
    assert held(live) == set()
    assert not live.client.exists(live.names.workers)
    worker.terminate()
    assert worker.wait() == 0


def test_a_plain_worker_says_that_the_apps_computations_wait_for_another_worker(live: LiveGroup) -> None:
    hint = "this worker runs no computations (total), and no partition worker runs. Start one: celery -A APP worker -P solo -c 1 -Q partition"
    quiet = live.start_worker("-Q", "celery", module=foreign.__name__).wait_ready()  # somebody has thought about its queues
    alone = live.start_worker(module=foreign.__name__).wait_ready()
    live.start_worker().wait_ready()
    live.wait_owned(by=1)
    beside = live.start_worker(module=foreign.__name__).wait_ready()
    assert [hint in worker.log() for worker in (quiet, alone, beside)] == [False, True, False]


def test_partitions_work_without_task_create_missing_queues(live: LiveGroup) -> None:
    live.start_worker("-Q", "partition", "-P", "solo", "-c", "1", module=foreign.__name__, NO_OTHER_QUEUES=1).wait_ready()
    wait_until(lambda: held(live) == ALL)


def test_a_partitions_number_is_written_without_zeros(live: LiveGroup) -> None:
    worker = live.start_worker("-Q", "partition.02").wait_ready()
    assert held(live) == set() and worker.running
    assert [live.names.partition_of_queue(name) for name in ("partition.02", "partition.00", "partition.0", "partition.10")] == [
        None, None, "0", "10"
    ]  # fmt: skip


def test_a_worker_of_an_installed_app_serves_partitions_on_request(live: LiveGroup) -> None:
    refused = live.start_worker("-Q", "partition", "-c", "2", module=foreign.__name__)
    assert refused.wait(timeout=60) not in (0, None)
    assert "needs the solo pool" in refused.log()
    live.start_worker("-Q", "partition,celery", "-P", "solo", "-c", "1", module=foreign.__name__).wait_ready()
    wait_until(lambda: held(live) == ALL)
    live.send_task("total", 3, queue="partition")
    wait_until(lambda: live.processed() == 1)
    assert live.app.send_task("add", args=[2, 3]).get(timeout=60) == 5
