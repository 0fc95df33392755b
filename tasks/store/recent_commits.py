"""A partition's last commits, for operators to look at: as values, and as the JSON stored in Redis.

Best effort, like measurements: an entry may be missing. What a commit itself wrote is always exact.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from celery_partitions.store.decoding import decoded

#: Commits kept per partition, the newest.
MAX_KEPT = 20


class RecentCommit(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One commit, as its worker saw it."""

    #: When its answer came: seconds since the epoch, by the server's clock.
    at: float
    #: The partition's commit number before it.
    commit_number: int
    #: The worker's node name.
    worker: str
    #: The fencing token.
    token: int
    #: Messages taken from the queue, or from the mailbox of a parked key.
    taken: int
    processed: int = 0
    failed: int = 0
    dead: int = 0
    forwarded: int = 0
    #: Outputs of pipelines.
    emitted: int = 0
    #: Messages that had expired, were revoked, or were duplicates.
    skipped: int = 0
    #: States written.
    states: int = 0
    #: Time spent in the computations of all its messages.
    computation_seconds: float = 0.0
    #: Time from sending it to its answer. None if it was sent again after an outage.
    commit_seconds: float | None = None
    #: Its last failure or dead letter, shortened; empty if there is none.
    error: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(RecentCommit).decode


def dump_commit(commit: RecentCommit) -> bytes:
    return _encode(commit)


def load_commits(texts: Iterable[bytes]) -> list[RecentCommit]:
    """Decode JSON, in the same order. Skips entries that can't be decoded, because another version wrote them."""
    return [commit for text in texts if (commit := decoded(_decode, text)) is not None]
