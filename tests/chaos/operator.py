"""An operator at work during the run: verbs that change nothing that the verdict looks at, and that workers must notice."""

from __future__ import annotations

from collections.abc import Callable

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.drain import drain, undrain
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.pause import pause, resume
from celery_partitions.store.names import Names, partitions_and_ingress
from tests.chaos.application import play
from tests.fundamentals.live import LiveGroup

BY = "chaos"


def node_of(worker: int) -> str:
    """A worker's Celery node name."""
    return f"worker-{worker}@chaos"


class Operator:
    """Asks the server directly. Each verb says what came of it; where the server does not answer, nothing may have, or late."""

    def __init__(self, live: LiveGroup) -> None:
        self.live = live
        self.client: redis.Redis = live.client
        self.names: Names = live.names
        self.partitions: int = live.settings.partitions

    def pause(self, partition: str) -> str:
        return self._said(lambda: f"it was {'not ' if pause(self.client, self.names, [partition], by=BY) else ''}paused before")

    def resume(self, partition: str) -> str:
        return self._said(lambda: f"it was {'' if resume(self.client, self.names, [partition], by=BY) else 'not '}paused")

    def drain(self, worker: int) -> str:
        return self._said(lambda: drain(self.client, self.names, node_of(worker), by=BY))

    def undrain(self, worker: int) -> str:
        return self._said(lambda: undrain(self.client, self.names, node_of(worker), by=BY))

    def forget(self, times: int) -> str:
        """States of keys that nobody sends to: the holders of their partitions have to read all states anew."""
        return self._said(lambda: f"{sum(map(self._forget, range(times)))} were there")

    def _forget(self, number: int) -> bool:
        return self.live.group.states.forget(play.computation, f"nobody-{number}")

    def retry_parked(self) -> str:
        """Every parked key at once, in its place, with all of its tries before it."""
        keys = ParkedKeys(self.client, self.names, self.partitions, Audit(self.client, self.names))
        return self._said(lambda: f"{[keys.retry(one.key, by=BY) for one in keys.all()].count('ok')} of them")

    def settle(self, workers: list[int]) -> None:
        """Whatever came late: nothing is paused, nobody drained."""
        resume(self.client, self.names, partitions_and_ingress(self.partitions), by=BY)
        for worker in workers:
            undrain(self.client, self.names, node_of(worker), by=BY)

    def _said(self, verb: Callable[[], str]) -> str:
        try:
            return verb()
        except redis.RedisError as error:
            return f"no answer: {error}"
