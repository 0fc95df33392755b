"""Adds what a commit changes to the timelines of its keys, if PARTITIONS_TIMELINE_BYTES is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from celery_partitions.admin.status import node_name
from celery_partitions.model.effects import AddToTimelines, ParkedKey
from celery_partitions.model.outcome import Outcome, Slot
from celery_partitions.model.timeline import changes_in
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions_config.settings import Settings


@dataclass(frozen=True, slots=True)
class Timelines:
    """How a worker writes timelines."""

    worker: str
    max_bytes: int
    seconds: float

    @classmethod
    def of(cls, settings: Settings, worker: str) -> Timelines | None:
        """None: they are switched off."""
        if not settings.timeline_bytes:
            return None
        return cls(node_name(worker), settings.timeline_bytes, settings.timeline_seconds)

    def effect(
        self,
        owned: OwnedPartition,
        outcome: Outcome,
        parked: Mapping[str, ParkedKey],
        bases: Mapping[tuple[str, str], bytes | None],
    ) -> AddToTimelines | None:
        """The effect to add to the commit of an outcome. None: it changes no key. `parked`: the records that it writes. `bases`: the records of
        states that are not in the cache, by computation and key, because calls are in flight."""

        def stored(computation: str, key: str) -> bytes | None:
            if (computation, key) in bases:
                return bases[computation, key]
            slot = owned.cache.young.get(computation, {}).get(key)
            return slot.stored if type(slot) is Slot else None

        changes = changes_in(
            outcome, parked, owned.parked, stored, at=owned.server_now(), commit_number=owned.commit_number + 1, worker=self.worker
        )
        return AddToTimelines(changes, self.max_bytes, self.seconds) if changes else None
