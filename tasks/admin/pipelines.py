"""What flows through each pipeline now: rates, and what waits, of its sources, stages and sinks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import redis

from celery_partitions.admin.history_json import points_in, recent_rate
from celery_partitions.admin.overview import Overview, Readable
from celery_partitions.pipeline.shape import Part, Shape
from celery_partitions.store.history import read_points
from celery_partitions.store.names import Names
from celery_partitions.store.telemetry import SINK
from celery_partitions.store.waiting_tasks import WaitingTasks, waiting_tasks

#: The longest queues that are read to count what waits by task. The others count as the mean of these.
MAX_QUEUES = 16
#: Sinks in this Redis that keep outputs until somebody takes them.
PLACES = ("RedisList", "RedisStream")


def look_at_pipelines(
    group: Readable, overview: Overview, shapes: Sequence[Shape], computations: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each pipeline with its parts and edges. `computations`: the rows of `look_at_computations`.

    `waiting` of a stage or a source: messages that wait for it in the queues (about, if `is_estimate`), and of a sink: its outputs that are in
    Redis. None: not known, or nothing can wait there.
    """
    if not shapes:
        return []
    waiting = waiting_by_task(group, overview)
    rows = {row["computation"]: row for row in computations}
    sinks = look_at_sinks(group, shapes, overview.at)
    found = []
    for shape in shapes:
        queued = {edge.end for edge in shape.edges if edge.kind == "queue"}
        parts = [
            sinks[part] if part.kind == "sink" else _part(part, rows.get(part.name, {}), waiting if part.kind == "source" or part in queued else None)
            for part in shape.parts
        ]
        places = {part: number for number, part in enumerate(shape.parts)}
        ends = Counter(edge.end for edge in shape.edges)
        edges = [
            {
                "start": places[edge.start],
                "end": places[edge.end],
                "kind": edge.kind,
                # A source gives each of its messages. What else comes from each of several parts is not known.
                "per_second": parts[places[edge.start if edge.start.kind == "source" else edge.end]]["per_second"]
                if edge.start.kind == "source" or ends[edge.end] == 1
                else None,
            }
            for edge in shape.edges
        ]
        found.append({"pipeline": shape.name, "parts": parts, "edges": edges})
    return found


def waiting_by_task(group: Readable, overview: Overview) -> WaitingTasks:
    """How many messages wait in the partitions' queues, by task."""
    rows = sorted((one for one in overview.partitions if one.status.length), key=lambda one: -one.status.length)
    read = rows[:MAX_QUEUES]
    counts, exact = waiting_tasks(group.client, [group.names.queue(one.partition) for one in read])
    if len(rows) == len(read):
        return WaitingTasks(counts, exact)
    share = sum(one.status.length for one in rows) / max(1, sum(one.status.length for one in read))
    return WaitingTasks({task: round(count * share) for task, count in counts.items()}, False)


def _part(part: Part, row: Mapping[str, Any], waiting: WaitingTasks | None) -> dict[str, Any]:
    """A source or a stage. Nothing waits for a stage that runs in the step of another one."""
    return {
        "kind": part.kind,
        "name": part.name,
        "place": part.place,
        "has_process": part.has_process,
        "per_second": row.get("done_per_second"),
        "waiting": None if waiting is None else waiting.counts.get(part.name, 0),
        "is_estimate": waiting is not None and not waiting.is_exact,
        "parked": row.get("parked", 0),
        "failed_per_second": row.get("failed_per_second"),
    }


def look_at_sinks(group: Readable, shapes: Sequence[Shape], now: float) -> dict[Part, dict[str, Any]]:
    """Each sink of the pipelines, as a part of its pipeline."""
    names, client = group.names, group.client
    parts = sorted({part for shape in shapes for part in shape.parts if part.kind == "sink"}, key=lambda part: part.name)
    own = {part: Names(names.sink_group(part.name), names.prefix) for part in parts if part.has_process}
    pushed = [part for part in parts if part.place in PLACES]
    keys = [one.history("0", "fine") for one in own.values()] + [names.computation_history(SINK + part.name, "fine") for part in pushed]
    histories = read_points(client, keys, points_in(3600)) if keys else []
    rates = {part: recent_rate(points, now) for part, points in zip([*own, *pushed], histories, strict=True)}
    lengths = _lengths(client, {part: own[part].queue("0") if part in own else part.name for part in (*own, *pushed)})
    return {
        part: {
            "kind": "sink",
            "name": part.name,
            "place": part.place,
            "has_process": part.has_process,
            "per_second": rates.get(part),
            "waiting": lengths.get(part),
            "is_estimate": False,
            "parked": 0,
            "failed_per_second": None,
        }
        for part in parts
    }


def _lengths(client: redis.Redis, keys: Mapping[Part, str]) -> dict[Part, int]:
    """The lengths of lists and streams. A key of another type has none."""
    with client.pipeline(transaction=False) as pipe:
        for part, key in keys.items():
            if part.place == "RedisStream":
                pipe.xlen(key)
            else:
                pipe.llen(key)
        answers = pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, redis.RedisError) and not isinstance(answer, redis.ResponseError):
            raise answer
    return {part: answer for part, answer in zip(keys, answers, strict=True) if isinstance(answer, int)}
