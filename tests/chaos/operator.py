"""An operator's actions during the run. Workers must notice them, but they change nothing that the verdict checks."""

from __future__ import annotations

from collections.abc import Callable

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.drain import drain, undrain
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.pause import pause, resume
from celery_partitions.model.topology import Topology
from celery_partitions.store.names import Names, partitions_and_ingress
from tests.chaos.application import play
from tests.fundamentals.live import LiveGroup

BY = "chaos"


def node_of(worker: int) -> str:
    """A worker's Celery node name."""
    return f"worker-{worker}@chaos"


class Operator:
    """Talks to the server directly. Each method describes its result. If the server does not answer, the action may happen late or never."""

    def __init__(self, live: LiveGroup) -> None:
        self.live = live
        self.client: redis.Redis = live.client
        self.names: Names = live.names
        self.partitions: int = live.settings.partitions

    def pause(self, partition: str) -> str:
        return self._described(lambda: f"it was {'not ' if pause(self.client, self.names, [partition], by=BY) else ''}paused before")

    def resume(self, partition: str) -> str:
        return self._described(lambda: f"it was {'' if resume(self.client, self.names, [partition], by=BY) else 'not '}paused")

    def drain(self, worker: int) -> str:
        return self._described(lambda: drain(self.client, self.names, node_of(worker), by=BY))

    def undrain(self, worker: int) -> str:
        return self._described(lambda: undrain(self.client, self.names, node_of(worker), by=BY))

    def forget(self, times: int) -> str:
        """Forget states of keys without messages. The owners of their partitions must read all states again."""
        return self._described(lambda: f"{sum(map(self._forget, range(times)))} were there")

    def _forget(self, number: int) -> bool:
        return self.live.group.states.forget(play.computation, f"unused-{number}")

    def retry_parked(self) -> str:
        """Retry every parked key at once, with all of its attempts restored."""
        keys = ParkedKeys(self.client, self.names, Topology(0, self.partitions), Audit(self.client, self.names))
        return self._described(lambda: f"{[keys.retry(one.key, by=BY) for one in keys.all()].count('ok')} of them")

    def settle(self, workers: list[int]) -> None:
        """Undo actions that happened late: resume all partitions, and undrain all workers."""
        resume(self.client, self.names, partitions_and_ingress(self.partitions), by=BY)
        for worker in workers:
            undrain(self.client, self.names, node_of(worker), by=BY)

    def _described(self, verb: Callable[[], str]) -> str:
        try:
            return verb()
        except redis.RedisError as error:
            return f"no answer: {error}"
