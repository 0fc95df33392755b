"""For which tasks messages wait in queues."""

from __future__ import annotations

import json

import redis

from celery_partitions.store.waiting_tasks import SAMPLED, waiting_tasks


def raw(task: str) -> str:
    """The name also stands where no task's name is."""
    return json.dumps({"body": "W10=", "properties": {"x": "task"}, "headers": {"argsrepr": '"task": "other"', "task": task, "id": "m"}})


def test_short_queues_are_counted(client: redis.Redis) -> None:
    client.lpush("q0", raw("pay"), raw("pay"), raw('a "quoted" ☃'))
    client.lpush("q1", raw("pay"), "no message", raw("pay")[:-12])
    client.set("text", "")
    found = waiting_tasks(client, ["q0", "q1", "text", "none"])
    assert (found.counts["pay"], found.is_exact) == (4, True)
    assert sum(found.counts.values()) == 6
    assert waiting_tasks(client, []) == ({}, True)


def test_long_queues_are_estimated(client: redis.Redis) -> None:
    for number in range(10):
        client.lpush("q", *[raw("pay")] * 300, *[raw("send")] * 100, *[raw(f"seldom {number}")])
    found = waiting_tasks(client, ["q"])
    assert not found.is_exact
    assert abs(sum(found.counts.values()) - 4010) < 2 * SAMPLED
    assert 2 < found.counts["pay"] / found.counts["send"] < 5
