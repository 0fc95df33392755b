"""What all parts of a schedule share: the world, the server, the group, its workers, and the judge."""

from __future__ import annotations

from random import Random
from typing import Any
from zlib import crc32

from celery import Celery

from celery_partitions.admin.resize import read_progress
from celery_partitions.model.topology import Topology
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.slots import Places
from celery_partitions.store.topology import read_topology
from celery_partitions_config.settings import Settings
from tests.simulation import calls
from tests.simulation.application import apply_batch, declared
from tests.simulation.flow import flow
from tests.simulation.judge import Judge
from tests.simulation.network import connect
from tests.simulation.server import Server
from tests.simulation.worker import Worker
from tests.simulation.world import World

#: The number of scheduler steps in which faults happen.
STORM_STEPS = 250

_app = Celery("simulation", set_as_current=False)


class Scene:
    """A group whose size, settings and rates depend on the seed."""

    def __init__(self, world: World, server: Server, seed: object = 0, *, apart: bool = False) -> None:
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
            partitions_url="redis://one:1,two:2" if apart else "",
            wait_replicas=0,
        )
        self.deduplicates = pick((False, True))
        computations = {
            "record": declared("record"),
            "second": declared("second", deduplicate=3600.0 if self.deduplicates else None),
        }
        # From here on a chance of their own, so that the schedules without calls are the same as before there were any.
        self.call_random = Random(f"calls {seed}")
        choose = self.call_random.choice
        #: The names of computations to which messages are sent directly. Those of `waits` are called outside of the loop.
        self.names_sent = ["record", "second"]
        if choose((False, False, False, True)):
            computations["waits"] = declared("waits", calls.apply, concurrency=choose((1, 3, 100)), strict=choose((False, False, True)))
            self.names_sent += ["waits"] * choose((1, 4))
        # And those without batches or own lines of calls.
        self.batch_random = Random(f"batches {seed}")
        choose = self.batch_random.choice
        #: Of batch computations, one plain and one called outside of the loop.
        self.batch_names: list[str] = []
        if choose((False, False, True)):
            flush = {"flush_every": choose((1, 2, 3, 7)), "flush_interval": choose((0.02, 0.3, 1.0))}
            computations["batched"] = declared("batched", apply_batch, **flush)
            computations["batched waits"] = declared("batched waits", calls.apply_batch, concurrency=choose((1, 100)), **flush)
            self.batch_names = choose((["batched"], ["batched waits"], ["batched", "batched waits"]))
            self.names_sent += self.batch_names * choose((1, 4))
        if choose((False, False, False, True)):
            computations["alone"] = declared("alone", calls.apply, holds="computation")
            self.names_sent += ["alone"] * choose((1, 3))
        #: Messages that batch computations always fail at, in the storm.
        self.spoilers: set[int] = set()
        #: How long half a call takes.
        self.call_seconds = self.call_random.choice(((0.0,), (0.0, 0.01), (0.0, 0.03, 0.5), (0.01, 0.1, 2.0)))
        computations_and_stages = {**computations, **flow()}
        #: Each process has its own, because each knows the topology by itself.
        self.install = lambda: Installation(_app, self.settings, computations_and_stages, by_default=False)
        self.installation = self.install()
        self.names = self.installation.group.names
        server.places = Places(self.names.root) if apart else None
        stages = {name: self.installation.computations[name] for name in ("first", "next", "last")}
        self.judge = Judge(server, self.names, self.installation.group.codec, {**computations, **stages})
        self.group, self.computations = self.installation.group, self.installation.computations
        self.client = self.group.client = connect(self.settings)
        #: The topology by which each key's producer chooses the queue.
        self.known: dict[str, Topology] = {}
        #: Operators resize the group.
        self.resizes = False
        self.saved_known: dict[str, Topology] = {}
        self.workers: list[Worker] = []
        #: The data on the server's disk and the judge's knowledge, from the last call of `save`.
        self.saved: tuple[Any, dict[str, Any]] | None = None
        self.saved_plain_task: set[bytes] = set()
        self.plain_task: set[bytes] = set()
        self.ran_plain_task: list[bytes] = []
        self.numbers = 0
        self.joined = 0
        self.steps = 0
        self.storm_steps = STORM_STEPS
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

    def topology(self) -> Topology:
        """The group's, in Redis."""
        return read_topology(self.client, self.names, self.settings.partitions)

    def home_of(self, key: str) -> str:
        """The partition of a key, as its producer knows it."""
        topology = self.known.get(key)
        return str(crc32(key.encode()) % (self.settings.partitions if topology is None else topology.partitions))

    def of_senders(self) -> Topology:
        """The topology by which a producer may send that learns of it now. On one server it need not wait until the keys have moved."""
        return self.topology().of_senders if self.names.is_spread else self.topology()

    @property
    def is_moving(self) -> bool:
        """Keys are on their way between partitions."""
        if b"former" not in self.server.keyspace.data.get(self.names.group_meta.encode(), {}):
            return False
        return read_progress(self.client, self.names, self.settings.partitions).state == "moving"
