"""Workers with many calls in flight are killed, stopped, suspended or hang: nothing is lost, and every effect happens once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_partitions.admin.drain import drain
from tests.fundamentals.live import LiveGroup
from tests.support.applications import waiting
from tests.support.applications.waiting import Visit, begun, limited_visit, overlaps, recorded, resourceful_visit, visit
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

KEYS = 40


@pytest.fixture
def live(redis_url: str, make_live: Callable[..., LiveGroup]) -> LiveGroup:
    return make_live(redis_url, PARTITIONS=2, PARTITIONS_BATCH_MESSAGES=2000, PARTITIONS_RETRY_BACKOFF_SECONDS=0.01, PARTITIONS_MAX_WORKER_CRASHES=3)


def start(live: LiveGroup, **env: object) -> WorkerProcess:
    worker = live.start_worker(module=waiting.__name__, **env)
    worker.wait_ready()
    return worker


def stopped(worker: WorkerProcess) -> int:
    """Stop a worker with SIGTERM. Returns its exit code."""
    worker.terminate()
    return worker.wait()


def wait_in_flight(live: LiveGroup, count: int) -> None:
    wait_until(lambda: len(recorded(live.client)) >= count and sum(row.running for row in live.group.status()) >= count)


def judge(live: LiveGroup, messages: list[Visit], at_most: int) -> None:
    """Check that each message is in its key's state once, in queue order, and was called at most `at_most` times."""
    wanted: dict[str, list[int]] = {}
    for message in messages:
        wanted.setdefault(message.key, []).append(message.number)
    assert live.numbers(visit) == wanted
    for key, calls in begun(recorded(live.client)).items():
        assert sorted(set(calls)) == sorted(wanted[key])
        assert len(calls) <= at_most * len(wanted[key])


def test_after_a_kill_all_calls_in_flight_run_again(live: LiveGroup) -> None:
    messages = [Visit(f"k{number % KEYS}", number, 0.8) for number in range(KEYS * 2)]
    worker = start(live)
    live.send(visit, messages)
    wait_in_flight(live, KEYS)
    worker.kill()
    start(live)
    live.wait_drained()
    judge(live, messages, at_most=2)
    lines = recorded(live.client)
    died = next(number for number, line in enumerate(lines) if lines[:number].count(line) and line.startswith("begin"))
    assert overlaps(lines[:died]) == overlaps(lines[died:]) == []


def test_a_stopping_worker_lets_its_calls_end(live: LiveGroup) -> None:
    """No call is repeated: those in flight are committed, and the next worker continues with the mailboxes."""
    messages = [Visit(f"k{number % KEYS}", number, 0.8) for number in range(KEYS * 2)]
    worker = start(live)
    live.send(visit, messages)
    wait_in_flight(live, KEYS)
    assert stopped(worker) == 0
    assert live.client.lrange("lifespans", 0, -1)[-1] == b"ended"  # type: ignore[index]
    assert set(live.owners().values()) == {None}
    start(live)
    live.wait_drained()
    judge(live, messages, at_most=1)
    assert overlaps(recorded(live.client)) == []


def test_a_call_that_does_not_end_in_time_runs_again(live: LiveGroup) -> None:
    messages = [Visit(f"k{number}", number, 30 if number == 0 else 0.5) for number in range(KEYS)]
    worker = start(live, PARTITIONS_STOP_SECONDS=2)
    live.send(visit, messages)
    wait_in_flight(live, KEYS)
    assert stopped(worker) == 0
    wait_until(lambda: live.processed() == KEYS - 1)
    row = next(row for row in live.group.status() if row.running)
    assert (row.running, row.length) == (1, 0)


def test_a_second_worker_gets_its_share_without_a_call_being_repeated(live: LiveGroup) -> None:
    messages = [Visit(f"k{number % KEYS}", number, 0.5) for number in range(KEYS * 3)]
    start(live)
    live.send(visit, messages)
    wait_in_flight(live, KEYS)
    start(live)
    live.wait_owned(by=2)
    live.wait_drained()
    judge(live, messages, at_most=1)
    assert overlaps(recorded(live.client)) == []


def test_a_drained_worker_lets_its_calls_end(live: LiveGroup) -> None:
    messages = [Visit(f"k{number % KEYS}", number, 0.8) for number in range(KEYS * 2)]
    start(live)
    (node,) = {owner for owner in live.owners().values() if owner}
    live.send(visit, messages)
    wait_in_flight(live, KEYS)
    start(live)
    assert drain(live.client, live.names, node, by="a test") == "ok"
    wait_until(lambda: node not in live.owners().values() and None not in live.owners().values())
    live.wait_drained()
    judge(live, messages, at_most=1)
    assert overlaps(recorded(live.client)) == []


def test_a_message_that_is_revoked_behind_a_call_is_not_called(live: LiveGroup) -> None:
    start(live)
    wait_until(lambda: live.app.control.ping(timeout=1, limit=1))
    first = live.send_task(visit.name, {"key": "k", "number": 0, "seconds": 4})
    revoked = live.send_task(visit.name, {"key": "k", "number": 1})
    live.send(visit, [Visit("k", 2)])
    wait_in_flight(live, 1)
    (answer,) = live.app.control.revoke([first, revoked], reply=True, timeout=60, limit=1)
    assert "ok" in next(iter(answer.values()))
    live.wait_drained()
    assert live.numbers(visit) == {"k": [0, 2]}  # a call that has begun goes on
    assert begun(recorded(live.client)) == {"k": [0, 2]}


def test_after_a_kill_all_calls_of_all_partitions_run_at_once_and_new_keys_start_beside_them(live: LiveGroup) -> None:
    """Calls that were running are suspects, and slow ones do not wait for each other: here none of them ends before all have begun again."""
    worker = start(live)
    live.send(visit, [Visit(f"k{number}", number, 3600) for number in range(KEYS * 3)])
    wait_in_flight(live, KEYS * 3)
    worker.kill()
    start(live)
    wait_until(lambda: len(recorded(live.client)) == KEYS * 6)
    live.send(visit, [Visit(f"new{number}", number) for number in range(KEYS)])
    wait_until(lambda: sum(live.numbers_of(visit, f"new{number}") == [number] for number in range(KEYS)) == KEYS)


def test_a_message_that_kills_its_worker_is_found_among_many_calls(live: LiveGroup) -> None:
    """The other messages are applied, and never become dead letters."""
    messages = [Visit(f"k{number}", number, 0.3) for number in range(KEYS)]
    messages[17] = Visit("k17", 17, 0.3, trick="kills")
    live.send(visit, messages)
    for _ in range(12):
        worker = start(live)
        wait_until(lambda worker=worker: not worker.running or not any(row.length or row.running or row.parked for row in live.group.status()))  # type: ignore[misc]
        if worker.running:
            break
    live.wait_drained()
    assert live.numbers(visit) == {f"k{number}": [number] for number in range(KEYS) if number != 17}
    (dead,) = live.dead_letters()
    assert (dead.reason, dead.key) == ("kills-the-worker", "k17")


def test_a_call_that_takes_too_long_fails_and_the_others_continue(live: LiveGroup) -> None:
    start(live, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    live.send(limited_visit, [Visit("slow", 1, 30), Visit("slow", 2), Visit("quick", 3)])
    live.wait_drained()
    assert live.numbers(limited_visit) == {"slow": [2], "quick": [3]}
    (dead,) = live.dead_letters()
    assert "time limit" in dead.error


def test_a_coroutine_that_swallows_its_cancellation_counts_as_hanging(live: LiveGroup) -> None:
    start(live, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    live.send(limited_visit, [Visit("hangs", 1, trick="swallows"), Visit("hangs", 2), Visit("other", 3)])
    live.wait_drained()
    assert live.numbers(limited_visit) == {"hangs": [2], "other": [3]}
    (dead,) = live.dead_letters()
    assert "time limit" in dead.error
    assert begun(recorded(live.client))["hangs"] == [1, 2]


def test_a_lifespan_gives_resources_and_ends_with_its_worker(live: LiveGroup) -> None:
    worker = start(live)
    live.send(resourceful_visit, [Visit("k", 1)])
    live.wait_drained()
    assert live.numbers(resourceful_visit) == {"k": [1]}
    assert stopped(worker) == 0
    began, ended = live.client.lrange("lifespans", 0, -1)  # type: ignore[misc]
    assert began.startswith(b"began ") and ended == b"ended"


def test_a_worker_whose_lifespan_raises_does_not_start(live: LiveGroup) -> None:
    worker = live.start_worker(module=waiting.__name__, LIFESPAN_FAILS=1)
    wait_until(lambda: not worker.running)
    assert "the lifespan given to install() raised OSError: no database" in worker.log_tail()
