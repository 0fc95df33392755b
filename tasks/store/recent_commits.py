"""What is remembered of a partition's last commits, for operators to look at; as values, and as the JSON that lies in Redis.

Best effort, as measurements are: what must be right of a commit is what the commit itself wrote.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

#: Of one partition, the newest are kept.
MAX_KEPT = 20


class RecentCommit(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One commit, as the worker that made it saw it."""

    #: Seconds since the epoch, by the server's clock, when its answer came.
    at: float
    #: How many commits the partition had had before it.
    commit_number: int
    #: Node name of the worker.
    worker: str
    #: The fencing token it was made with.
    token: int
    #: Messages that left their queue, or the mailbox of a parked key.
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
    #: Of all its messages' computations together.
    computation_seconds: float = 0.0
    #: From sending it to taking its answer; None when it was sent again after an outage.
    commit_seconds: float | None = None
    #: The failure or dead letter that came last in it, shortened; empty without any.
    error: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(RecentCommit).decode


def dump_commit(commit: RecentCommit) -> bytes:
    return _encode(commit)


def load_commits(texts: Iterable[bytes]) -> list[RecentCommit]:
    """From JSON, in the same order; without what is no such JSON (another version wrote it)."""
    found = []
    for text in texts:
        try:
            found.append(_decode(text))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return found
