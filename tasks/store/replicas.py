"""Waits until replicas have a commit (`PARTITIONS_WAIT_REPLICAS`), so that a failover loses less.

WAIT follows the commit on the same connection, in the same round trip. The commit is written in any case; if replicas are late, the worker
continues. So a lost replica only slows commits down (by up to `PARTITIONS_WAIT_MILLISECONDS` each), and the worker warns once. To stop
instead, set `min-replicas-to-write` on the server: it then refuses writes, and workers wait.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("celery.worker.partitions")


class Replicas:
    """Sends WAIT after each commit of one worker. Used only by the loop's thread."""

    def __init__(self, wanted: int, milliseconds: int) -> None:
        self.wanted, self.milliseconds = wanted, milliseconds
        self._behind = False

    def ask(self, connection: Any) -> None:
        """Send WAIT. Called right after a commit was sent on this connection."""
        connection.send_command("WAIT", self.wanted, self.milliseconds)

    def read_answer(self, connection: Any) -> None:
        """Read WAIT's answer, and warn if replicas are late. Called after the commit's answer was read. Raises redis-py's errors if the
        connection breaks."""
        reached = int(connection.read_response())
        if reached < self.wanted and not self._behind:
            logger.warning(
                "partitions: only %d of %d replicas (PARTITIONS_WAIT_REPLICAS) have a commit after %d ms; the worker continues, more slowly. "
                "Check the replicas",
                reached,
                self.wanted,
                self.milliseconds,
            )
        elif reached >= self.wanted and self._behind:
            logger.warning("partitions: %d replicas have commits in time again", reached)
        self._behind = reached < self.wanted
