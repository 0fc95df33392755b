"""During a deploy, messages whose task a worker does not know yet, or whose state it cannot read, wait in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from celery_partitions.admin.dead_letters import died
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.task_lines import line_of_task, partition_of_line
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until
from tests.worker.by_hand import LoopByHand, loop_by_hand

LONG, SHORT = "1000", "0.000001"
LINE = "unknown task record @0"


@pytest.fixture
def make(make_live: Callable[..., LiveGroup]) -> Callable[[str], LiveGroup]:
    return lambda seconds: make_live(PARTITIONS=1, PARTITIONS_DEPLOY_WAIT_SECONDS=seconds, PARTITIONS_LEASE_SECONDS=seconds)


@contextmanager
def worker_of(live: LiveGroup, *, knows: bool) -> Iterator[LoopByHand]:
    """A worker with the new version of the code, or with an older one that has no `record`."""
    everything = dict(live.installation.computations) | {"record": record.computation}
    live.installation.computations = {name: one for name, one in everything.items() if knows or name != "record"}
    with loop_by_hand(live) as loop:
        loop.take_turns()
        yield loop


def deliver(loop: LoopByHand, live: LiveGroup, *numbers: int, key: str = "key", queue: str = "partition.0") -> None:
    for number in numbers:
        live.app.send_task("record", args=[{"key": key, "number": number}], queue=queue)
    loop.look_again()
    loop.take_turns()


def parked(live: LiveGroup) -> dict[str, ParkedKey]:
    return {one.key: one for one in live.group.parked_keys.all()}


def retry_dead_letters(live: LiveGroup) -> int:
    return live.group.dead_letters.retry(sorted(live.dead_letters(), key=died))


def wait_dead(loop: LoopByHand, live: LiveGroup, count: int) -> None:
    """Wait until the waiting time is over, by the server's clock."""

    def is_over() -> bool:
        loop.take_turns()
        return len(live.dead_letters()) == count

    wait_until(is_over)


def damage(live: LiveGroup, key: str) -> None:
    live.client.hset(live.names.states("0", "record"), key, b"no pickle")


def repair(live: LiveGroup, key: str) -> None:
    live.client.hdel(live.names.states("0", "record"), key)


@pytest.mark.parametrize("queue", ["partition.0", "partition"])
def test_messages_of_an_unknown_task_wait_for_a_worker_that_knows_it(make: Callable[[str], LiveGroup], queue: str) -> None:
    live = make(LONG)
    with worker_of(live, knows=False) as loop:
        deliver(loop, live, 0, 1, queue=queue)
        deliver(loop, live, 2, queue=queue)
        (waiting,) = parked(live).values()
        assert (waiting.waiting, waiting.task, waiting.reason) == (3, "record", "unknown-task")
        assert "this worker has no task named 'record'" in waiting.error
    live.app.send_task("record", args=[{"key": "key", "number": 3}], queue=queue)
    with worker_of(live, knows=True) as loop:
        loop.look_again()  # reads what the ingress has forwarded
        loop.take_turns()
        assert live.numbers_of(record, "key") == [0, 1, 2, 3]
    assert parked(live) == {} and live.dead_letters() == []


def test_later_messages_do_not_overtake_waiting_ones(make: Callable[[str], LiveGroup]) -> None:
    """The worker gets the task while its messages wait, in the same process and without a new lease."""
    live = make(LONG)
    with worker_of(live, knows=False) as loop:
        deliver(loop, live, 0, 1)
        loop.owned.reading = None
        loop.installation.computations = {**loop.installation.computations, "record": record.computation}
        deliver(loop, live, 2)
        assert live.numbers_of(record, "key") == [] and parked(live)[LINE].waiting == 3
        assert live.group.parked_keys.retry(LINE, by="test") == "ok"
        deliver(loop, live, 3)
        assert live.numbers_of(record, "key") == [0, 1, 2, 3]
        assert parked(live) == {}


def test_other_tasks_do_not_wait(make: Callable[[str], LiveGroup]) -> None:
    live = make(LONG)
    with worker_of(live, knows=False) as loop:
        deliver(loop, live, 0)
        live.app.send_task("witness", args=[{"key": "key", "number": 1}], queue="partition.0")
        loop.look_again()
        loop.take_turns()
    assert parked(live)["key"].error.startswith("ConnectionError"), "it ran, and found no server for its lines"


def test_messages_that_waited_too_long_become_dead_letters_and_are_retried_in_order(make: Callable[[str], LiveGroup]) -> None:
    live = make(SHORT)
    with worker_of(live, knows=False) as loop:
        deliver(loop, live, 0, 1, 2)
        wait_dead(loop, live, 3)
        assert {one.reason for one in live.dead_letters()} == {"unknown-task"}
        assert parked(live) == {}
    live.send(record, [Step("key", 3), Step("other", 4)])
    assert retry_dead_letters(live) == 3
    with worker_of(live, knows=True) as loop:
        loop.take_turns()
    assert live.numbers(record) == {"key": [0, 1, 2, 3], "other": [4]}
    assert live.dead_letters() == []


def test_a_retry_goes_before_the_messages_that_wait(make: Callable[[str], LiveGroup]) -> None:
    live = make(SHORT)
    with worker_of(live, knows=False) as loop:
        deliver(loop, live, 0, 1)
        wait_dead(loop, live, 2)
    live = make(LONG)
    with worker_of(live, knows=False) as loop:
        deliver(loop, live, 2)
        assert retry_dead_letters(live) == 2
        loop.look_again()
        loop.take_turns()
        assert parked(live)[LINE].waiting == 3
    with worker_of(live, knows=True) as loop:
        loop.take_turns()
    assert live.numbers_of(record, "key") == [0, 1, 2]


def test_with_a_full_line_messages_become_dead_letters(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_DEPLOY_WAIT_SECONDS=LONG, PARTITIONS_MAILBOX_MESSAGES=2)
    with worker_of(live, knows=False) as loop:
        deliver(loop, live, 0, 1, 2)
    assert parked(live)[LINE].waiting == 2
    (dead,) = live.dead_letters()
    assert dead.reason == "unknown-task" and "2 of its messages wait already" in dead.error


def test_messages_of_an_unreadable_state_wait_until_it_can_be_read(make: Callable[[str], LiveGroup]) -> None:
    live = make(LONG)
    with worker_of(live, knows=True) as loop:
        damage(live, "key")
        deliver(loop, live, 0, 1)
        deliver(loop, live, 2)
        deliver(loop, live, 3, key="other")
        waiting = parked(live)["key"]
        assert (waiting.waiting, waiting.reason) == (3, "unreadable-state")
        assert live.numbers_of(record, "other") == [3]
        repair(live, "key")
        assert live.group.parked_keys.retry("key", by="test") == "ok"
        deliver(loop, live, 4)
    assert live.numbers_of(record, "key") == [0, 1, 2, 4]
    assert parked(live) == {} and live.dead_letters() == []


def test_a_new_owner_retries_at_once(make: Callable[[str], LiveGroup]) -> None:
    live = make(LONG)
    with worker_of(live, knows=True) as loop:
        damage(live, "key")
        deliver(loop, live, 0, 1)
    repair(live, "key")
    with worker_of(live, knows=True):
        assert live.numbers_of(record, "key") == [0, 1]


def test_a_state_that_stays_unreadable(make: Callable[[str], LiveGroup]) -> None:
    live = make(SHORT)
    with worker_of(live, knows=True) as loop:
        damage(live, "key")
        deliver(loop, live, 0, 1)
        wait_dead(loop, live, 2)
        assert {one.reason for one in live.dead_letters()} == {"unreadable-state"}
        assert parked(live) == {}
        repair(live, "key")
        live.send(record, [Step("key", 2)])
        assert retry_dead_letters(live) == 2
        loop.look_again()
        loop.take_turns()
    assert live.numbers_of(record, "key") == [0, 1, 2]


def test_the_names_of_lines() -> None:
    assert partition_of_line(line_of_task("a b\n@7", "ingress")) == "ingress"
    assert partition_of_line(line_of_task("x" * 10_000, "12")) == "12"
    assert line_of_task("x" * 10_000, "12") != line_of_task("x" * 10_001, "12")
    assert line_of_task("\ud800", "0").encode() and partition_of_line("record") is None


def deliver_of_stage(loop: LoopByHand, live: LiveGroup, task: str, number: int, key: object = "key", queue: str = "partition.0") -> None:
    """A message that a pipeline's stage has written: it shows its key."""
    live.app.send_task(task, args=[{"key": "key", "number": number}], queue=queue, headers={"partition_key": key})
    loop.look_again()
    loop.take_turns()


@pytest.mark.parametrize("queue", ["partition.0", "partition"])
def test_a_message_that_shows_its_key_waits_in_the_order_of_its_key(make: Callable[[str], LiveGroup], queue: str) -> None:
    live = make(LONG)
    with worker_of(live, knows=True) as loop:
        deliver_of_stage(loop, live, "of a newer version", 0, queue=queue)
        deliver(loop, live, 1)
        deliver(loop, live, 2, key="other")
        assert live.numbers(record) == {"other": [2]}
        (waiting,) = parked(live).values()
        assert (waiting.key, waiting.reason, waiting.task, waiting.waiting) == ("key", "unknown-task", "of a newer version", 2)
        assert loop.lacks() == [("0", "of a newer version")]
        loop.owned.reading = None
        loop.installation.computations = {**loop.installation.computations, "of a newer version": record.computation}
        assert live.group.parked_keys.retry("key", by="test") == "ok"
        deliver(loop, live, 3)
        assert live.numbers_of(record, "key") == [0, 1, 2 + 1] and parked(live) == {} and loop.lacks() == []


def test_a_message_that_shows_its_key_becomes_a_dead_letter_with_its_key(make: Callable[[str], LiveGroup]) -> None:
    live = make(SHORT)
    with worker_of(live, knows=True) as loop:
        deliver_of_stage(loop, live, "of a newer version", 0)
        deliver(loop, live, 1)
        wait_dead(loop, live, 1)
        (dead,) = live.dead_letters()
        assert (dead.reason, dead.key) == ("unknown-task", "key") and live.numbers_of(record, "key") == [1]
        deliver_of_stage(loop, live, "another", 2, key=["no key"])
        wait_dead(loop, live, 2)


def test_messages_do_not_die_while_another_worker_knows_their_task(make: Callable[[str], LiveGroup]) -> None:
    live = make(SHORT)
    with worker_of(live, knows=False) as loop:
        loop.follow(replace(loop.holdings.share, known_elsewhere=frozenset(["record"])))
        deliver(loop, live, 0, 1)
        assert parked(live)[LINE].waiting == 2 and live.dead_letters() == []
        loop.follow(replace(loop.holdings.share, known_elsewhere=frozenset()))
        wait_dead(loop, live, 2)
