"""How a batch computation's failed batch is halved, until the message that spoils it stands alone. Pure."""

from __future__ import annotations

from typing import NamedTuple

from celery_partitions.model.policy import AfterFailure, TryAgain


class Halving(NamedTuple):
    """What is known of the oldest messages of a mailbox, after a batch of them has failed."""

    #: How many the next call gets. 0: as many as `flush_every` allows.
    size: int = 0
    #: How many are left of a batch that is being halved. 0: none is.
    suspects: int = 0

    def must_halve(self, count: int, follows: AfterFailure) -> bool:
        """Whether a call of `count` messages that failed is halved. `follows`: what its policy says."""
        return count > 1 and (self.suspects > 0 or not isinstance(follows, TryAgain))

    def halved(self, count: int) -> Halving:
        """After the last failure of a call of `count` messages."""
        return Halving(max(1, count // 2), max(self.suspects, count))

    def retried(self, count: int) -> Halving:
        """After a failure of a call of `count` messages that is retried. The same messages are called again."""
        return Halving(count, self.suspects)

    def after(self, count: int) -> Halving:
        """After a call of `count` messages that are done or were given up. The next call may get twice as many, but none from behind the
        failed batch."""
        left = self.suspects - count
        return Halving(min(2 * count, left), left) if left > 0 else Halving()


NOT_HALVED = Halving()
