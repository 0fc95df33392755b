"""A message that kills its worker, or never returns, becomes a dead letter. The messages around it are applied once."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from celery_partitions.model.keys import partition_of
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.applications import trouble
from tests.support.applications.trouble import Trouble, kill, limited, second
from tests.support.history import check_history
from tests.support.wait import wait_until

KEYS = ["a", "b", "c"]


def sent(poison_messages: dict[int, str], messages: int = 60) -> list[Trouble]:
    return [Trouble(KEYS[number % 3], number, poison_messages.get(number, "")) for number in range(messages)]


def wanted(messages: list[Trouble], without: set[int]) -> dict[str, list[int]]:
    return {key: [one.number for one in messages if one.key == key and one.number not in without] for key in KEYS}


@pytest.mark.parametrize("how", ["exit", "segfault"])
def test_a_message_that_kills_its_worker_is_a_dead_letter_after_four_crashes(
    make_live: Callable[..., LiveGroup], redis_url: str, how: str
) -> None:
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=50)
    messages = sent({20: how})
    live.send(kill, messages)
    for _ in range(4):  # the first one names no message
        assert live.start_worker(module=trouble.__name__).wait(timeout=60) != 0
    live.start_worker(module=trouble.__name__)
    live.wait_drained()
    check_history(wanted(messages, without={20}), live.numbers(kill))
    (dead_letter,) = live.dead_letters()
    assert (dead_letter.reason, dead_letter.key, dead_letter.task) == ("kills-the-worker", "c", "kill")
    assert dead_letter.error.startswith("3 workers died")
    assert not live.client.exists(live.names.isolation("0"))
    assert not live.client.hexists(live.names.meta("0"), "to_isolate")


def test_after_a_crash_the_backlog_is_committed_in_large_batches(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    """Only the batch that was running can contain the poison message. One commit per message of the backlog would take minutes."""
    live = make_live(redis_url, PARTITIONS=2, PARTITIONS_BATCH_MESSAGES=2000)
    live.send(kill, sent({0: "exit"}, 1))
    assert live.start_worker(module=trouble.__name__).wait(timeout=60) != 0
    messages = [Trouble(f"key-{number % 10}", number) for number in range(6000)]
    live.send(kill, messages)
    for _ in range(3):
        assert live.start_worker(module=trouble.__name__).wait(timeout=60) != 0
    live.start_worker(module=trouble.__name__)
    live.wait_drained()
    assert [dead_letter.reason for dead_letter in live.dead_letters()] == ["kills-the-worker"]
    assert sum(map(len, live.numbers(kill).values())) == 6000
    commits = sum(int(live.client.hget(live.names.meta(partition), "commit_number") or 0) for partition in "01")
    assert commits < 700  # the group of 500 over which the second worker died runs message by message


@pytest.mark.parametrize("workers", [2, 3])
def test_a_message_that_holds_the_interpreter_lock_past_its_lease_is_a_dead_letter(
    make_live: Callable[..., LiveGroup], redis_url: str, workers: int
) -> None:
    """No worker dies, but each repeatedly loses its leases to another one."""
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=50)
    for _ in range(workers):
        live.start_worker(module=trouble.__name__).wait_ready()
    messages = sent({20: "hold"})
    live.send(kill, messages)
    live.wait_drained()
    check_history(wanted(messages, without={20}), live.numbers(kill))
    (dead_letter,) = live.dead_letters()
    assert (dead_letter.reason, dead_letter.key) in {("stalls-the-worker", "c"), ("kills-the-worker", "c")}
    assert "hung" in dead_letter.error or "interpreter lock" in dead_letter.error
    assert all(worker.running for worker in live.workers)


def test_without_a_limit_it_is_never_a_dead_letter_and_only_its_partition_waits(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    live = make_live(redis_url, PARTITIONS=2, PARTITIONS_MAX_WORKER_CRASHES=0)
    held, free = (next(key for key in "abcdefgh" if partition_of(key, 2) == number) for number in (0, 1))
    workers = [live.start_worker(module=trouble.__name__).wait_ready() for _ in range(2)]
    live.send(kill, [Trouble(held, 0, "hold"), Trouble(held, 1)])
    wait_until(lambda: sum(worker.log().count("has taken over") for worker in workers) >= 2, PATIENCE_SECONDS, message="no takeover")
    live.send(kill, [Trouble(free, number) for number in range(50)])
    wait_until(lambda: len(live.numbers_of(kill, free)) == 50, PATIENCE_SECONDS)
    assert (live.numbers_of(kill, held), live.dead_letters()) == ([], [])
    for worker in workers:
        worker.kill()
    for _ in range(2):
        live.start_worker(module=trouble.__name__, PARTITIONS_MAX_WORKER_CRASHES=1)
    live.wait_drained()
    assert live.numbers_of(kill, held) == [1]
    assert len(live.dead_letters()) == 1


def test_two_poison_messages_are_both_found(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=50, PARTITIONS_MAX_WORKER_CRASHES=2)
    messages = sent({10: "exit", 11: "exit"})
    live.send(kill, messages)
    for _ in range(5):
        assert live.start_worker(module=trouble.__name__).wait(timeout=60) != 0
    live.start_worker(module=trouble.__name__)
    live.wait_drained()
    check_history(wanted(messages, without={10, 11}), live.numbers(kill))
    assert {dead_letter.reason for dead_letter in live.dead_letters()} == {"kills-the-worker"} and len(live.dead_letters()) == 2


@pytest.mark.parametrize(("how", "reason"), [("exit", "kills-the-worker"), ("sleep", "computation-failed")])
def test_a_retry_that_kills_or_hangs_harms_none_of_those_that_share_its_turn(
    make_live: Callable[..., LiveGroup], redis_url: str, how: str, reason: str
) -> None:
    """Every message fails once. So 30 parked keys are retried together, and one of them is poison."""
    live = make_live(redis_url, PARTITIONS=1)
    keys = [f"key-{number}" for number in range(30)]
    live.send(second, [Trouble(key, number, how if (key, number) == ("key-15", 0) else "") for number in range(2) for key in keys])
    worker = live.start_worker(module=trouble.__name__)
    for _ in range(4 if how == "exit" else 0):
        assert worker.wait(timeout=60) != 0
        worker = live.start_worker(module=trouble.__name__)
    live.wait_drained()
    check_history({key: [1] if key == "key-15" else [0, 1] for key in keys}, live.numbers(second))
    (dead_letter,) = live.dead_letters()
    assert (dead_letter.reason, dead_letter.key) == (reason, "key-15")
    assert not live.client.hlen(live.names.isolation("0")) and not live.client.keys("*mailbox*")


def test_one_kill_while_an_innocent_message_runs_alone_is_no_proof(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    """Killed from outside: while a batch runs, while a group of it runs, and while one message of the group runs alone."""
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=50)
    live.client.set(trouble.KILLS, 3)
    messages = sent({20: "killed beside"})
    live.send(kill, messages)
    for _ in range(3):
        assert live.start_worker(module=trouble.__name__).wait(timeout=60) == -signal.SIGKILL
    live.start_worker(module=trouble.__name__)
    live.wait_drained()
    check_history(wanted(messages, without=set()), live.numbers(kill))
    assert live.dead_letters() == []


def test_workers_that_die_for_another_reason_make_no_dead_letters(
    make_live: Callable[..., LiveGroup], redis_url: str
) -> None:
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=50)
    messages: list[Trouble] = []
    for start in range(0, 300, 60):
        fresh = [Trouble(KEYS[number % 3], number) for number in range(start, start + 60)]
        messages += fresh
        worker = live.start_worker(module=trouble.__name__).wait_ready()
        live.send(kill, fresh)
        wait_until(lambda: live.processed() > start + 5, PATIENCE_SECONDS, every=0.001)  # noqa: B023
        worker.kill()
    live.start_worker(module=trouble.__name__)
    live.wait_drained()
    check_history(wanted(messages, without=set()), live.numbers(kill))
    assert live.dead_letters() == []


@pytest.mark.parametrize("how", ["spin", "sleep"])
def test_a_computation_past_its_time_limit_fails_and_the_partition_continues(
    make_live: Callable[..., LiveGroup], redis_url: str, how: str
) -> None:
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=50)
    messages = sent({20: how}, 30)
    worker = live.start_worker(module=trouble.__name__).wait_ready()
    live.send(limited, messages)
    live.wait_drained()
    check_history(wanted(messages, without={20}), live.numbers(limited))
    (dead_letter,) = live.dead_letters()
    assert (dead_letter.reason, dead_letter.attempts) == ("computation-failed", 2)
    assert dead_letter.error == "TimeLimitExceeded: took longer than its time limit of 0.3 s"
    assert worker.running
    assert ("replacing this process" in worker.log_path.read_text()) == (how == "sleep")


def test_a_computation_that_returns_normally_after_its_limit_counts(
    make_live: Callable[..., LiveGroup], redis_url: str
) -> None:
    live = make_live(redis_url, PARTITIONS=1)
    live.start_worker(module=trouble.__name__)
    live.send(limited, sent({5: "swallow"}, 12))
    live.wait_drained()
    check_history(wanted(sent({}, 12), without=set()), live.numbers(limited))
    assert live.dead_letters() == []


def test_a_stopping_worker_is_not_restarted_because_of_a_hang(
    make_live: Callable[..., LiveGroup], redis_url: str
) -> None:
    """The worker exits. The next owner counts the message that hung as failed, and applies the messages around it once."""
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=1)
    messages = sent({1: "sleep"}, 3)
    worker = live.start_worker(module=trouble.__name__).wait_ready()
    live.send(limited, messages)
    wait_until(lambda: live.processed() == 1, PATIENCE_SECONDS, every=0.001)
    worker.terminate()
    assert worker.wait() == 0
    assert "replacing this process" in worker.log_path.read_text()
    live.start_worker(module=trouble.__name__)
    live.wait_drained()
    check_history(wanted(messages, without={1}), live.numbers(limited))
