"""An overview and its history in JSON, for the dashboard's API, its event stream and `top --json`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from celery_partitions.admin.history import POINTS, TOTAL, Flow, History
from celery_partitions.admin.overview import Overview, PartitionOverview

#: Fields that are added up in the totals.
_SUMMED = (
    "waiting",
    "delayed",
    "keys",
    "parked",
    "running",
    "dead_letters",
    "processed",
    "failed",
    "forwarded",
    "emitted",
    "deduplicated",
)


def to_json(
    overview: Overview, history: History, words: Mapping[str, str] = MappingProxyType({}), *, points: int = POINTS
) -> dict[str, Any]:
    """`at`, `totals`, and `partitions`: one row each, the ingress last. `points`: length of each row's history; 0: no history. `words`:
    partitions that are stalled or fall behind, with that word."""
    rows = [row_of(partition, history, words, points=points) for partition in overview.partitions]
    return {"at": overview.at, "totals": _totals(rows, history, points), "partitions": rows}


def state_of(partition: PartitionOverview, words: Mapping[str, str], flow: Flow | None) -> str:
    """One word: `away` (its server does not answer), `unowned`, `paused`, `stalled`, `falling behind`, `running`, or `idle` (nothing waits, and
    nothing was done since the last look)."""
    status = partition.status
    if status.away:
        return "away"
    if status.owner is None:
        return "unowned"
    if status.paused:
        return "paused"
    return words.get(partition.partition) or (
        "running" if status.length or status.running or (flow and flow.done_per_second) else "idle"
    )


def row_of(
    partition: PartitionOverview, history: History, words: Mapping[str, str] = MappingProxyType({}), *, points: int = POINTS
) -> dict[str, Any]:
    """One partition. A value that is not known is null, as rates are before the second overview."""
    status, flow = partition.status, history.now(partition.partition)
    return {
        "queue": status.queue,
        "partition": partition.partition,
        "state": state_of(partition, words, flow),
        "owner": status.owner,
        "server": status.server or None,
        "refused_to": list(status.refused_to),
        "lease_age_seconds": _rounded(partition.lease_age_seconds),
        "waiting": status.length,
        "delayed": status.delayed,
        "oldest_age_seconds": _rounded(partition.oldest_age_seconds),
        **_rates(flow),
        "history": history.series(partition.partition, points) if points else [],
        **_latencies(history, partition.partition),
        "keys": status.keys,
        "state_bytes": partition.state_bytes if partition.state_bytes is not None else history.state_bytes(partition.partition),
        "parked": status.parked,
        "running": status.running,
        "dead_letters": status.dead,
        "last_error": msgspec.to_builtins(partition.measurements.last_error),
        "paused": status.paused,
        "processed": status.processed,
        "failed": partition.failed,
        "forwarded": partition.forwarded,
        "emitted": partition.emitted,
        "deduplicated": partition.deduplicated,
    }


def _totals(rows: list[dict[str, Any]], history: History, points: int) -> dict[str, Any]:
    """The whole group. A forwarded message counts once in the rates. `held`: partitions with an owner; `workers`: the owners."""
    owners = [row["owner"] for row in rows if row["owner"] is not None]
    return {
        **{name: sum(row[name] for row in rows) for name in _SUMMED},
        "oldest_age_seconds": max(
            (row["oldest_age_seconds"] for row in rows if row["oldest_age_seconds"] is not None), default=None
        ),
        **_rates(history.now(TOTAL)),
        "history": history.series(TOTAL, points) if points else [],
        **_latencies(history, TOTAL),
        "state_bytes": history.state_bytes(TOTAL),
        "partitions": len(rows),
        "held": len(owners),
        "workers": len(set(owners)),
        "paused": sum(row["paused"] for row in rows),
    }


def _latencies(history: History, partition: str | None) -> dict[str, float | None]:
    p50, p99 = history.latencies((0.5, 0.99), partition)
    return {"latency_p50_seconds": _rounded(p50, 6), "latency_p99_seconds": _rounded(p99, 6)}


def _rates(flow: Flow | None) -> dict[str, float | None]:
    return {
        "in_per_second": None if flow is None else flow.in_per_second,
        "done_per_second": None if flow is None else flow.done_per_second,
    }


def _rounded(seconds: float | None, digits: int = 3) -> float | None:
    return None if seconds is None else round(seconds, digits)
