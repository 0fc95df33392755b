"""What each worker reports about itself every ten seconds: a hash in Redis, one JSON per worker. Best effort, like measurements."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from celery_partitions.store.decoding import decoded


class WorkerReport(msgspec.Struct, frozen=True, gc=False):
    """One worker process."""

    #: Seconds since the epoch, by the server's clock: of the report, and when the process started.
    at: float
    started_at: float
    host: str
    pid: int
    #: The release of celery-partitions.
    release: str
    #: A digest of the source files of its computations. Workers of one group normally have the same.
    code: str
    python: str
    #: Bytes of memory that the process uses; None if the system does not say.
    memory_bytes: int | None = None
    #: Messages applied per second, over the ten seconds before the report.
    done_per_second: float = 0.0
    #: Calls in flight by computation, for computations that wait.
    in_flight: Mapping[str, int] = {}
    #: How many calls of each such computation may be in flight in this process.
    concurrency: Mapping[str, int] = {}
    #: Open sockets of the process: to Redis, and those of the app. None if the system does not say.
    sockets: int | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(WorkerReport).decode


def dump_report(report: WorkerReport) -> bytes:
    return _encode(report)


def load_reports(rows: Mapping[bytes, bytes]) -> dict[str, WorkerReport]:
    """Worker id → its report. Skips reports that another version wrote."""
    return {worker.decode("utf-8", "replace"): report for worker, text in rows.items() if (report := decoded(_decode, text)) is not None}
