"""The harness and real workers give the same states, outputs of each key, dead letters and parked keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_partitions.admin.pause import resume
from celery_partitions.producer.pipelines import applications
from celery_partitions.store.names import partitions_and_ingress
from celery_partitions.testing import CRASH_POINTS, CrashPoint, harness
from celery_partitions.testing.live import PartitionWorkers
from celery_partitions_config.settings import Settings
from tests.support.server import RedisServer
from tests.support.worker import ROOT
from tests.testing import applications as module
from tests.testing.applications import Amount
from tests.testing.scenarios import MUCH, SCENARIOS, Scenario, seen

KEY = "a key to sign pickles with"


def in_memory(scenario: Scenario, *crashes: CrashPoint, **options: Any) -> dict[str, Any]:
    settings = Settings(state_signing_keys=(KEY.encode(),), partitions=4)
    with harness(applications[scenario.application], settings=settings, **options) as h:
        for crash in crashes:
            h.crash(crash)
        for source, messages in scenario.sends:
            h.send_many(messages, source)
        h.advance(seconds=scenario.seconds)
        assert scenario.done(h)
        return seen(scenario, h)


def on_workers(server: RedisServer, folder: Path) -> PartitionWorkers:
    environment = {"PARTITIONS_STATE_SIGNING_KEY": KEY, "PARTITIONS_LEASE_SECONDS": 2}
    return PartitionWorkers(module.__name__, server.url(), root=ROOT, logs=folder, environment=environment)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PartitionWorkers]:
    """Two workers for all scenarios, which are sent together to save time. They do not affect each other."""
    with RedisServer() as server, on_workers(server, tmp_path_factory.mktemp("workers")) as workers:
        workers.start(2)
        for scenario in SCENARIOS:
            for source, messages in scenario.sends:
                workers.send_many(messages, source)
        yield workers
        print(workers.log_tails())


each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@each_scenario
def test_the_harness_gives_the_expected_results(scenario: Scenario) -> None:
    found = in_memory(scenario)
    assert {name: found[name] for name in scenario.expected} == scenario.expected


@each_scenario
@pytest.mark.parametrize("at", CRASH_POINTS)
def test_a_crash_changes_nothing(scenario: Scenario, at: CrashPoint) -> None:
    assert in_memory(scenario, at) == in_memory(scenario)


@each_scenario
@pytest.mark.parametrize(
    "options", [{"twice": True}, {"batch_messages": 1}, {"batch_messages": 3, "twice": True}, {"partitions": 1}, {"partitions": 7}], ids=str
)
def test_a_second_delivery_and_the_sizes_of_batches_and_groups_change_nothing(scenario: Scenario, options: dict[str, Any]) -> None:
    assert in_memory(scenario, **options) == in_memory(scenario)


@each_scenario
def test_real_workers_agree(scenario: Scenario, live: PartitionWorkers) -> None:
    live.wait_until(lambda: scenario.done(live), what="not done")
    assert seen(scenario, live) == in_memory(scenario)


@pytest.mark.server
def test_real_workers_agree_when_one_is_killed(tmp_path: Path) -> None:
    with RedisServer() as server, on_workers(server, tmp_path) as workers:
        victim, _ = workers.start(2)
        for source, messages in MUCH.sends:
            workers.send_many(messages, source)
        workers.wait_until(lambda: len(workers.outputs("three hops")) > 50)
        victim.kill()
        workers.wait_until(lambda: MUCH.done(workers), what="not done")
        assert seen(MUCH, workers) == in_memory(MUCH) == in_memory(MUCH, "after the commit", "before the commit")


STOPPED = Scenario(
    name="stopped",
    application="failing: stop",
    sends=[("amounts or stop", [Amount("stopped", number) for number in (1, 13, 2, 3)])],
    done=lambda view: bool(view.paused),
    stages=("add or stop",),
    sinks={"added or stop": lambda output: output[0]},
)


def test_real_workers_agree_on_a_partition_that_pauses_and_is_resumed(live: PartitionWorkers) -> None:
    def is_over(view: Any) -> bool:
        return len(view.outputs("added or stop")) == 4 and "stopped" not in view.parked

    (source, messages), = STOPPED.sends
    with harness(applications[STOPPED.application]) as h:
        h.send_many(messages, source)
        (paused,) = h.paused
        stopped = seen(STOPPED, h)
        h.resume()
        assert is_over(h)
        resumed = seen(STOPPED, h)
    assert stopped["parked"] == {"stopped": ("ValueError: 13 is unlucky", 2, 1, False)}
    assert resumed["outputs to added or stop"] == {"stopped": [["stopped", total] for total in (1, 14, 16, 19)]}
    assert resumed["dead letters"] == []

    live.send_many(messages, source)
    live.wait_until(lambda: live.paused == [paused] and live.parked["stopped"].waiting == 1)
    assert seen(STOPPED, live) == stopped
    group = live.installation.group
    resume(group.client, group.names, partitions_and_ingress(live.installation.settings.partitions), by="test")
    live.wait_until(lambda: is_over(live))
    assert seen(STOPPED, live) == resumed
