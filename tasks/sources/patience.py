"""Waiting for a server that does not answer, or refuses: nothing is read meanwhile, and it is said once."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from celery_partitions.model.errors import PartitionError
from celery_partitions.sources.stop_signal import Stop
from celery_partitions.worker.backoff import Backoff

logger = logging.getLogger("celery.partitions.source")

T = TypeVar("T")

#: While the server does not answer and the process was told to end: so long a push of what can't be read again is tried.
LAST_TRY_SECONDS = 3.0


class Stopped(PartitionError):
    """The process was told to end while it waited; what it had read can be read again."""


class Patience:
    """Of one source's process."""

    def __init__(self, source: str, stop: Stop) -> None:
        self.source, self.stop = source, stop
        self._trouble = ""

    def run(self, attempt: Callable[[], T], *, can_be_left: bool) -> T:
        """Again and again until it works. When the process is told to end meanwhile: raises `Stopped` where the attempt can be left,
        else, a little later, what redis-py raised last."""
        backoff, give_up = Backoff(random.random), None
        while True:
            try:
                done = attempt()
            except (redis.RedisError, OSError) as error:
                if self.stop.asked:
                    if can_be_left:
                        raise Stopped from error
                    give_up = give_up or time.monotonic() + LAST_TRY_SECONDS
                    if time.monotonic() > give_up:
                        raise
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    logger.warning("source %r: Redis: %s; nothing more is read until it works", self.source, error)
                self.rest(backoff.next_seconds())
            else:
                if self._trouble:
                    self._trouble = ""
                    logger.warning("source %r: Redis takes messages again", self.source)
                return done

    def rest(self, seconds: float) -> None:
        if self.stop.asked:
            time.sleep(seconds)
        else:
            self.stop.wait(seconds)
