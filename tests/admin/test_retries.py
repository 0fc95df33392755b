"""Retries of dead letters: how far they are, and how many messages failed again."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import redis

from celery_partitions.admin.retries import KEPT_SECONDS, MAX_IDS, MAX_KEPT, Retries, described
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.names import Names


def dead_letter(message_id: str | None) -> DeadLetter:
    return DeadLetter("1-0-0", "1", "error", "", "", "k", message_id, "pay", 1, 5.0, "")


def begin(client: redis.Redis, names: Names, ids: Sequence[str | None], *, ended: bool = True) -> float:
    """A retry of messages, and when it began."""
    kept = Retries(client, names)
    progress = kept.begin(len(ids), {"reason": "error"}, by="me")
    for one in ids:
        progress.passed(dead_letter(one))
    if ended:
        progress.end()
    return progress.retry.at


def test_those_that_died_again_are_counted(client: redis.Redis, names: Names) -> None:
    at = begin(client, names, ["a", "b", None, "c"])
    died = [(at - 1, "a"), (at + 1, "b"), (at + 2, "other"), (at + 3, "c")]
    (found,) = Retries(client, names).last(died)
    assert (found["chosen"], found["done"], found["ended"], found["failed_again"]) == (4, 4, True, 2)
    assert (found["by"], described(found["query"])) == ("me", "reason error")


def test_progress_is_seen_while_it_runs_and_after_a_kill(client: redis.Redis, names: Names) -> None:
    kept = Retries(client, names)
    progress = kept.begin(3, {}, by="me")
    assert [(one["done"], one["ended"]) for one in kept.last([])] == [(0, False)]
    progress._written_at -= 1  # half a second has passed
    progress.passed(dead_letter("a"))
    assert [(one["done"], one["chosen"], one["ended"]) for one in kept.last([])] == [(1, 3, False)]
    assert described({}) == "all"


def test_what_is_kept_is_bounded(client: redis.Redis, names: Names) -> None:
    for number in range(MAX_KEPT + 3):
        begin(client, names, [f"{number}"])
    assert client.hlen(names.retries) <= MAX_KEPT + 1
    begin(client, names, [f"m{number}" for number in range(MAX_IDS + 5)])
    newest = Retries(client, names).last([])[0]
    assert newest["done"] == MAX_IDS + 5
    assert client.scard(names.retried(newest["id"])) == MAX_IDS
    assert 0 < client.ttl(names.retried(newest["id"])) <= KEPT_SECONDS  # type: ignore[operator]


def test_what_another_version_wrote_is_no_retry(client: redis.Redis, names: Names) -> None:
    client.hset(names.retries, "1", "no JSON")
    client.hset(names.retries, "2", msgspec.json.encode({"id": "2", "at": 1.0, "by": "", "chosen": 1}))
    assert Retries(client, names).last([]) == [], "the second one is older than a day"
