"""The sampler of a Flower process: it reads the group every two seconds while a page is open, and wakes all event streams.

It starts with the first page view and stops some minutes after the last. A page that is opened again soon still has its five minutes
of history, and an unused Flower does not read Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from typing import Any

import msgspec
import redis

from celery_partitions.admin.attention_watch import attention_json
from celery_partitions.admin.history import KEPT_SECONDS, MIN_SECONDS
from celery_partitions.admin.watcher import Watcher
from celery_partitions.model.errors import PartitionError
from celery_partitions.producer.pipelines import ends_with_processes
from celery_partitions.runtime.installation import Installation

logger = logging.getLogger("celery.partitions.dashboard")

#: Longer than the history, so that it is complete for a user who comes back within this time.
IDLE_SECONDS = 2 * KEPT_SECONDS

#: Fields that change with time alone. They are sent only with other changes of their row; the page computes them.
AGES = ("lease_age_seconds", "oldest_age_seconds")
#: All fields of all rows are sent with every n-th sample.
SAMPLES_PER_WHOLE = 15

#: Errors of a read that are shown to the user; the read is then retried.
FAILURES = (redis.RedisError, OSError, PartitionError)


class Live:
    """Created and used in Flower's event loop. `watch` may be used by any thread that may block."""

    def __init__(self, installation: Installation, executor: Executor, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self.watch = Watcher(installation.group, ends=ends_with_processes)
        self.executor, self.idle_seconds = executor, idle_seconds
        #: The last overview in JSON, without histories, and of its rows only the fields that changed; None before the first one.
        self.latest: bytes | None = None
        self._rows: dict[str, dict[str, Any]] = {}
        self._since_all = 0
        #: What needs an operator, in JSON; None before the first look. Replaced only if it has changed.
        self.attention: bytes | None = None
        #: Why the last read failed; empty if it succeeded.
        self.error = ""
        self._looked_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._listeners = 0
        self._ticked = asyncio.Event()

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def touch(self) -> None:
        """Keep sampling for the next minutes. Called at each page view."""
        self._looked_at = time.monotonic()
        if not self.running:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def whole(self) -> bytes:
        """The overview with all rows and histories, in JSON. Raises one of `FAILURES`."""
        self.touch()
        self._since_all = SAMPLES_PER_WHOLE  # the next sample may be compared with an older one than this
        return await asyncio.get_running_loop().run_in_executor(self.executor, lambda: msgspec.json.encode(self.watch.to_json()))

    async def look_for_attention(self) -> None:
        """Read what needs an operator, if the last look is old. Raises one of `FAILURES`."""

        def read() -> bytes:
            return msgspec.json.encode(attention_json(self.watch.attention.look(self.watch.look())))

        found = await asyncio.get_running_loop().run_in_executor(self.executor, read)
        if found != self.attention:
            self.attention = found

    async def next(self) -> tuple[bytes | None, str]:
        """Wait for the next sample: the overview in JSON, or why there is none."""
        self._listeners += 1
        try:
            self.touch()
            await self._ticked.wait()
        finally:
            self._listeners -= 1
        return (None, self.error) if self.error else (self.latest, "")

    async def _run(self) -> None:
        while self._listeners or time.monotonic() - self._looked_at < self.idle_seconds:
            began = time.monotonic()
            try:
                self.latest = await asyncio.get_running_loop().run_in_executor(self.executor, self._changes)
                await self.look_for_attention()
                self._set_error("")
            except FAILURES as error:
                self._set_error(describe(error))
            except Exception as error:
                logger.exception("unexpected error while reading the partitions")
                self._set_error(describe(error))
            ticked, self._ticked = self._ticked, asyncio.Event()
            ticked.set()
            await asyncio.sleep(max(MIN_SECONDS / 4, began + MIN_SECONDS + 0.01 - time.monotonic()))

    def _set_error(self, error: str) -> None:
        if error and not self.error:
            logger.warning("cannot read the partitions (%s); retrying every two seconds", error)
        self.error = error

    def _changes(self) -> bytes:
        """Read the overview. What did not change is left out, but now and then all is sent, for a page that missed a change."""
        found = self.watch.to_json(points=0)
        before, self._rows = self._rows, {row["partition"]: row for row in found["partitions"]}
        self._since_all += 1
        if self._since_all < SAMPLES_PER_WHOLE:
            found["partitions"] = [changed for row in found["partitions"] if (changed := changes(before.get(row["partition"], {}), row))]
        else:
            self._since_all = 0
        return msgspec.json.encode(found)


def changes(before: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row that changed, with those that say which row it is, and its ages. Empty if only ages changed."""
    changed = {name: value for name, value in row.items() if before.get(name, changes) != value and name not in AGES}
    return {"partition": row["partition"], **{name: row[name] for name in AGES}, **changed} if changed else {}


def describe(error: BaseException) -> str:
    """An error's text for people, without a traceback."""
    what = f"{error}" or type(error).__name__
    if isinstance(error, PartitionError):
        return what
    return f"Redis: {what}" if isinstance(error, redis.RedisError | OSError) else f"{type(error).__name__}: {what}"


def live_of(application: Any, installation: Installation) -> Live:
    """The sampler of a group in a Flower application. Call it in Flower's event loop."""
    known: dict[Installation, Live] = application.__dict__.setdefault("partitions_live", {})
    if installation not in known:
        known[installation] = Live(installation, application.executor)
    return known[installation]
