"""Waiting until replicas have a commit (`PARTITIONS_WAIT_REPLICAS`): so much less can a failover lose.

WAIT follows the commit on its own connection, in the same round trip. It takes nothing back: a commit is written whether or not
replicas have it in time, and work goes on. So a lost replica costs speed (`PARTITIONS_WAIT_MILLISECONDS` a commit) and is said once; who
would rather stand still has the server refuse writes (`min-replicas-to-write`), which workers wait out.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("celery.worker.partitions")


class Replicas:
    """Asks after each commit of one worker. Used by the loop's thread only."""

    def __init__(self, wanted: int, milliseconds: int) -> None:
        self.wanted, self.milliseconds = wanted, milliseconds
        self._behind = False

    def ask(self, connection: Any) -> None:
        """Right after the commit was sent on this connection."""
        connection.send_command("WAIT", self.wanted, self.milliseconds)

    def hear(self, connection: Any) -> None:
        """After the commit's answer was read. Raises redis-py's errors when the connection breaks."""
        reached = int(connection.read_response())
        if reached < self.wanted and not self._behind:
            logger.warning(
                "partitions: commits are on %d of %d replicas after %d ms (PARTITIONS_WAIT_REPLICAS); going on, more slowly",
                reached,
                self.wanted,
                self.milliseconds,
            )
        elif reached >= self.wanted and self._behind:
            logger.warning("partitions: commits are on %d replicas in time again", reached)
        self._behind = reached < self.wanted
