"""Retries while Redis does not answer or refuses. The source reads nothing meanwhile; the error is logged once."""

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

#: How long a stopping process keeps trying to push input that cannot be read again while Redis does not answer.
LAST_TRY_SECONDS = 3.0


class Stopped(PartitionError):
    """The process was asked to stop while it waited. Its input can be read again."""


class Patience:
    """Made once per source and process."""

    def __init__(self, source: str, stop: Stop) -> None:
        self.source, self.stop = source, stop
        self._trouble = ""

    def run(self, attempt: Callable[[], T], *, can_be_left: bool) -> T:
        """Call `attempt` until it works, with growing waits.

        If the process is asked to stop meanwhile: raises `Stopped` if `can_be_left`, else redis-py's last error after
        `LAST_TRY_SECONDS`.
        """
        backoff, give_up = Backoff(random.random), None
        while True:
            try:
                done = attempt()
            except (redis.RedisError, OSError) as error:
                if self.stop.requested:
                    if can_be_left:
                        raise Stopped from error
                    give_up = give_up or time.monotonic() + LAST_TRY_SECONDS
                    if time.monotonic() > give_up:
                        raise
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    logger.warning("source %r: Redis error: %s; reading is paused until Redis works again", self.source, error)
                self.rest(backoff.next_seconds())
            else:
                if self._trouble:
                    self._trouble = ""
                    logger.warning("source %r: Redis works again; reading continues", self.source)
                return done

    def rest(self, seconds: float) -> None:
        if self.stop.requested:
            time.sleep(seconds)
        else:
            self.stop.wait(seconds)
