"""Calls that were given up, for example with their partition's lease, and have not ended: a thread cannot be stopped.

No two calls of a key may overlap in a process. So until such a call has ended, the key's messages wait in its mailbox, as they do behind any call
in flight. Every other key goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import replace

from celery_partitions.model.items import Item, Work
from celery_partitions.model.own_lines import key_and_computation
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.call_times import REFILL_SECONDS
from celery_partitions.worker.key_runs import KeyRun
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import OwnedPartition

logger = logging.getLogger("celery.worker.partitions")


class AbandonedCalls:
    """Those of all partitions of a process, because a key's partition may come back, or change by a resize. Only the loop's thread uses it."""

    def __init__(self) -> None:
        self._runs: dict[str, list[KeyRun]] = {}
        #: The keys about which a line was logged.
        self._logged: set[str] = set()

    def add(self, run: KeyRun) -> None:
        self._runs.setdefault(run.key, []).append(run)

    def __contains__(self, key: str) -> bool:
        """Whether a call of the key was given up and has not ended."""
        runs = self._runs.get(key)
        if runs is None:
            return False
        runs[:] = [run for run in runs if not run.has_ended]
        if not runs:
            del self._runs[key]
            self._logged.discard(key)
        return bool(runs)

    def keys(self) -> Collection[str]:
        return [key for key in list(self._runs) if key in self] if self._runs else ()

    def hold(self, owned: OwnedPartition, batch: Batch, items: Iterable[Item] = ()) -> bool:
        """Whether a batch of mailboxes must wait, because a call of one of its keys has not ended. Those mailboxes are due a little later.
        `items`: of a line with several keys."""
        runs = {} if owned.calls is None else owned.calls.runs
        if batch.mailbox_of is None or not (self._runs or runs):
            return False
        keys = {place: key_and_computation(place)[0] for place in _places(batch)}
        line_waits = any(isinstance(item, Work) and (item.key in self or item.key in runs) for item in items)
        held = [place for place, key in keys.items() if line_waits or key in self or key in runs]
        for place in held:
            self._log(owned, keys[place])
            owned.parked[place] = record = replace(owned.parked[place], due=owned.server_now() + REFILL_SECONDS)
            owned.note_due(place, record)
        return bool(held)

    def _log(self, owned: OwnedPartition, key: str) -> None:
        """Once for each key that waits."""
        if key in self._logged or key not in self._runs:
            return
        self._logged.add(key)
        run = self._runs[key][0]
        text = "partition %s: key %r waits, because a call of %s that was given up has not ended in this process"
        logger.warning(
            text, owned.partition, key, run.stage.name, extra=log_fields(owned.partition, key=key, task=run.stage.name)
        )


def _places(batch: Batch) -> Sequence[str]:
    """The parked keys, and lines, that a batch of mailboxes is from."""
    return [part.mailbox_of or "" for part in batch.parts] or [batch.mailbox_of or ""]
