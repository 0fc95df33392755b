"""What all parts of a schedule share: the world, the server, the group, its workers, and the judge."""

from __future__ import annotations

from typing import Any
from zlib import crc32

from celery import Celery

from celery_partitions.runtime.installation import Installation
from celery_partitions_config.settings import Settings
from tests.simulation.application import declared
from tests.simulation.flow import flow
from tests.simulation.judge import Judge
from tests.simulation.network import connect
from tests.simulation.server import Server
from tests.simulation.worker import Worker
from tests.simulation.world import World

_app = Celery("simulation", set_as_current=False)


class Scene:
    """A group whose size, settings and rates depend on the seed."""

    def __init__(self, world: World, server: Server) -> None:
        self.world, self.server, self.random = world, server, world.random
        pick = self.random.choice
        self.settings = Settings(
            partitions=pick((1, 2, 3)),
            lease_seconds=1.0,
            redis_timeout_seconds=pick((0.4, 1.5)),
            batch_messages=pick((1, 2, 5, 20, 200)),
            batch_seconds=pick((0.0001, 0.05, 1.0)),
            state_cache_keys=pick((1, 4, 1000)),
            retry_attempts=pick((0, 1, 3)),
            retry_backoff_seconds=pick((0.05, 0.5)),
            retry_longest_backoff_seconds=1.0,
            retry_exhausted=pick(("park", "park", "dead_letter", "dead_letter", "hold", "stop")),
            mailbox_messages=pick((2, 10_000, 10_000)),
            max_worker_crashes=pick((0, 1, 3)),
            deploy_wait_seconds=0.0,
        )
        self.deduplicates = pick((False, True))
        computations = {
            "record": declared("record"),
            "second": declared("second", deduplicate=3600.0 if self.deduplicates else None),
        }
        self.installation = Installation(_app, self.settings, {**computations, **flow()}, by_default=False)
        self.names = self.installation.group.names
        stages = {name: self.installation.computations[name] for name in ("first", "next", "last")}
        self.judge = Judge(server, self.names, self.installation.group.codec, {**computations, **stages})
        self.group, self.computations = self.installation.group, self.installation.computations
        self.client = self.group.client = connect(self.settings)
        self.workers: list[Worker] = []
        #: The data on the server's disk and the judge's knowledge, from the last call of `save`.
        self.saved: tuple[Any, dict[str, Any]] | None = None
        self.saved_plain_task: set[bytes] = set()
        self.plain_task: set[bytes] = set()
        self.ran_plain_task: list[bytes] = []
        self.numbers = 0
        self.joined = 0
        self.steps = 0
        self.faults: dict[str, int] = {}
        self.stormy = True
        #: An operator changes something as soon as a commit's reply is lost.
        self.change_next = False
        self.send_rate = pick((0.02, 0.05, 0.15))
        self.fault_rate = pick((0.01, 0.05, 0.2))
        self.loss_rate = pick((0.0, 0.01, 0.05))
        self.raise_rate = pick((0.0, 0.02, 0.1))
        self.slow_rate = pick((0.0, 0.05))
        #: Also in the calm.
        self.stays_slow = False
        #: The share of messages that go into the pipeline, where each becomes five.
        self.flow_share = pick((0.0, 0.0, 0.1, 0.4))
        self.poison_messages: set[int] = set()
        self.keys = [f"key-{number}" for number in range(pick((1, 3, 6)))]

    def log(self, text: str, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self.world.note("--------- %s", text)

    def running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.running]

    def some_worker(self) -> Worker | None:
        running = self.running()
        return self.random.choice(running) if running else None

    def home_of(self, key: str) -> str:
        return str(crc32(key.encode()) % self.settings.partitions)
