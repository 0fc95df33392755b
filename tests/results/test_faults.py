"""Results and follow-ups happen exactly once, through kills between any two steps, lost replies and simultaneous commits."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, chord
from celery.exceptions import TimeoutError

from celery_partitions import partition_of
from tests.faults.conftest import BRITTLE
from tests.results import engines, test_replies
from tests.results.application import add, gather, quiet
from tests.results.conftest import Client
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

PATIENCE = 60

MakeClient = Callable[..., Client]

PLACES = ["step:after", "send:before", "begin:after", "answer:after", "settle:after"]


def message(key: str, number: int) -> dict[str, Any]:
    return {"key": key, "number": number}


def keys_of(partition: int, partitions: int) -> list[str]:
    return [key for key in map(str, range(200)) if partition_of(key, partitions) == partition]


def send_flows(here: Client, flows: int) -> list[Any]:
    """Chords of computations that have links and a body; no plain task, which a kill of a stock consumer may lose."""
    results = []
    for number in range(flows):
        header = [add.s(message(f"key-{number}", 1)).set(link=quiet.s()), add.s(message(f"x-{number}", 2 * number))]
        results.append(chord(header, gather.s()).apply_async())
    return results


def check_flows(here: Client, results: list[Any], patience: float = PATIENCE) -> None:
    """Check that each chord was answered, and that its body and its link ran once."""
    for number, result in enumerate(results):
        assert result.get(timeout=patience)["number"] >= 1 + 2 * number
    here.live.wait_drained()
    for number in range(len(results)):
        assert quiet.state(f"key-{number}").numbers == [1]  # type: ignore[union-attr]
        assert add.state(f"key-{number}").numbers == [1]  # type: ignore[union-attr]
    ran = sorted(here.ran("gather"))
    assert ran == sorted(f"gather:{sorted([1, 2 * number])}" for number in range(len(results)))
    assert here.live.dead_letters() == []


def check_notified(here: Client, seconds: float = 60.0) -> None:
    """A caller that waits for a result is notified and need not poll."""
    received = here.listen("notified", seconds)
    add.apply_async([message("k", 1)], task_id="notified")
    assert received(1)[0]["status"] == "SUCCESS"


@pytest.mark.parametrize("place", PLACES)
def test_killed(make_client: MakeClient, place: str) -> None:
    here = make_client(**{**BRITTLE, "PARTITIONS_BATCH_MESSAGES": 2}, PARTITIONS=2)
    results = send_flows(here, 8)
    doomed = here.start_worker("-Q", "partition", module=engines.__name__, DIE_AT=f"{place}:4")
    assert doomed.wait(timeout=PATIENCE) == -signal.SIGKILL
    here.start_worker("-Q", "partition")
    check_flows(here, results)


@pytest.mark.parametrize("place", ["before:1", "before:2", "after:2"])
def test_a_worker_is_killed_before_the_body_of_a_chord_is_sent(make_client: MakeClient, place: str) -> None:
    """Before a part is counted, and when the last part is counted, the chord is claimed, and nothing is committed."""
    here = make_client(**BRITTLE, PARTITIONS=2)
    header = [add.s(message(keys_of(number, 2)[0], number + 1)) for number in (0, 1)]
    result = chord(header, gather.s()).apply_async()
    doomed = here.start_worker("-Q", "partition", module=engines.__name__, DIE_AT=f"run_celery_task:{place}")
    assert doomed.wait(timeout=60) == -signal.SIGKILL
    assert here.ran() == []
    here.start_worker("-Q", "partition")
    assert result.get(timeout=PATIENCE)["number"] == 3
    assert here.ran("gather") == ["gather:[1, 2]"]


def test_the_reply_of_a_commit_is_lost(make_client: MakeClient, redis_url: str, proxy: Proxy) -> None:
    here = make_client(PARTITIONS=2)
    results = send_flows(here, 6)
    lost = proxy.cut_before_reply(b"REPLY", times=2)
    here.live.env["REDIS_URL"] = proxy.url()
    here.start_worker()
    check_flows(here, results)
    assert lost.fired == 2


def test_the_last_two_parts_of_a_chord_are_counted_at_the_same_time(make_client: MakeClient) -> None:
    here = make_client(PARTITIONS=2)
    workers = [
        here.start_worker("-Q", f"partition.{number}", module=engines.__name__, MEET_BEFORE_FOLLOW_UP=2) for number in (0, 1)
    ]
    for worker in workers:
        worker.wait_ready()
    for _ in range(3):
        header = [add.s(message(keys_of(number, 2)[0], 1)) for number in (0, 1)]
        chord(header, gather.s()).apply_async().get(timeout=PATIENCE)
    assert len(here.ran("gather")) == 3


@pytest.mark.parametrize("last", ["stock", "ours"])
def test_a_chord_of_a_stock_worker_and_ours(make_client: MakeClient, last: str) -> None:
    """The first part is counted before the other worker starts; the last one counts them all."""
    here = make_client(PARTITIONS=2)
    header = [add.s(message("a", 1)), here.sig("double", message("x", 2)).set(queue="stock")]
    result = chord(header, gather.s()).apply_async()
    arguments = [("-Q", "partition"), ("-Q", "stock", "-P", "solo")]
    for which in arguments if last == "stock" else arguments[::-1]:
        here.start_worker(*which)
        wait_until(lambda: here.live.client.exists(f"celery-taskset-meta-{result.parent.id}.d"), PATIENCE)
    assert result.get(timeout=PATIENCE)["number"] == 5
    assert here.ran("gather") == ["gather:[1, 4]"]


def test_a_queue_of_the_wrong_type_fails_only_the_follow_up(make_client: MakeClient) -> None:
    here = make_client(PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_FOLLOW_UP_QUEUES="wrong")
    here.live.client.set("wrong", "x")
    here.start_worker("-Q", "partition")
    bad = quiet.apply_async([message("a", 1)], link=here.sig("double").set(queue="wrong"))
    after = add.apply_async([message("b", 1)])
    assert after.get(timeout=PATIENCE)["number"] == 1
    assert "wrong type" in here.live.dead_letter_of(f"{bad.id}:follow-up").error
    assert quiet.state("a").numbers == [1]  # type: ignore[union-attr]


@pytest.mark.parametrize("queue", ["{partition}:policies", "{partition.0}:dead", "{partition.sink.x}:group"])
def test_follow_ups_are_not_pushed_onto_other_keys_of_the_group(make_client: MakeClient, queue: str) -> None:
    here = make_client(PARTITIONS_RETRY_ATTEMPTS=0)
    here.start_worker("-Q", "partition")
    bad = quiet.apply_async([message("a", 1)], link=here.sig("double").set(queue=queue))
    assert add.delay(message("b", 1)).get(timeout=PATIENCE)["number"] == 1
    assert "that name is reserved for the partitions" in here.live.dead_letter_of(f"{bad.id}:follow-up").error
    assert here.live.client.type(queue) in (b"none", b"hash")
    assert quiet.state("a").numbers == [1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name",
    [
        "starts a chord with each part",
        "commits again on a retry",
        "notifies no caller",
        "overwrites a success",
        "stores the value as it is later",
    ],
)
def test_a_broken_engine_is_caught(make_client: MakeClient, proxy: Proxy, redis_url: str, name: str) -> None:
    here = make_client(PARTITIONS=2, PARTITIONS_BATCH_MESSAGES=2)
    checks = {
        "starts a chord with each part": lambda: check_one_body(here),
        "notifies no caller": lambda: check_notified(here, 3.0),
        "overwrites a success": lambda: test_replies.test_a_stored_success_is_not_overwritten(here, "k"),
        "stores the value as it is later": lambda: test_replies.test_a_later_change_of_the_returned_value_is_not_stored(here, "k"),
        "commits again on a retry": lambda: check_flows(here, send_flows(here, 20), 3),
    }
    if name == "commits again on a retry":
        # Several times: one commit that is written twice may have nothing to push, and no message behind it to lose.
        proxy.cut_before_reply(b"REPLY", times=8)
        here.live.env["REDIS_URL"] = proxy.url()
    worker = here.start_worker(module=engines.__name__, BROKEN_REPLIES=name)
    worker.wait_ready()  # these checks have short timeouts: without a running worker they would prove nothing
    with pytest.raises((AssertionError, TimeoutError)):
        checks[name]()


def check_one_body(here: Client) -> None:
    """Several chords: one of ten starts once, with all its parts, even with the broken engine."""
    for number in range(1, 9):
        header = [add.s(message(f"{number}-{n}", n)) if n % 2 else here.sig("double", message("k", n)) for n in range(6)]
        chord(header, gather.s()).apply_async().get(timeout=PATIENCE)
        here.live.wait_drained()
        assert here.ran("gather") == [f"gather:{[0, 1, 3, 4, 5, 8]}"] * number


def test_a_chord_whose_body_is_copied_into_too_many_parts(make_client: MakeClient) -> None:
    """Celery puts the body into each part's message. Together they would be one command that the server refuses."""
    here = make_client()
    worker = here.start_worker("-Q", "partition,celery")
    body = here.sig("constant", "x" * 1_200_000)
    parts = [here.sig("constant", "y", immutable=True) for _ in range(60)]
    chain(quiet.s(message("a", 1)).set(task_id="first"), chord(parts, body)).apply_async()
    add.apply_async([message("a", 2)]).get(timeout=PATIENCE)
    dead_letter = here.live.dead_letter_of("first:follow-up")
    assert dead_letter.reason == "follow-up-failed"
    assert "copied into each" in dead_letter.error
    assert quiet.state("a").numbers == [1]  # type: ignore[union-attr]
    assert here.ran("constant") == []
    assert worker.running
    assert "Redis error" not in worker.log()
