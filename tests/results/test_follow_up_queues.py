"""A message can make the worker push follow-ups only onto queues that the app declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from kombu import Queue

from celery_partitions.results.recorder import known_queues
from celery_partitions.store.names import Names
from tests.results.application import Refused, add, alone, quiet, refuse
from tests.results.conftest import Client
from tests.support.wait import wait_until

MakeClient = Callable[..., Client]

PATIENCE = 60


def message(key: str, number: int) -> dict[str, Any]:
    return {"key": key, "number": number}


def test_follow_ups_go_to_no_unknown_queue(make_client: MakeClient) -> None:
    here = make_client(PARTITIONS_RETRY_ATTEMPTS=0)
    here.start_worker("-Q", "partition")
    double = here.sig("double").set(queue="elsewhere")
    sent = [
        quiet.apply_async([message("a", 1)], link=double),
        chain(quiet.s(message("b", 1)), double).apply_async(),
        chain(quiet.s(message("c", 1)), group(double, double)).apply_async(),
        chord([add.s(message("d", 1))], double).apply_async(),
    ]
    refused = refuse.apply_async([message("e", -1)], link_error=double)
    after = add.apply_async([message("f", 1)])
    assert after.get(timeout=PATIENCE)["number"] == 1
    with pytest.raises(Refused):
        refused.get(timeout=PATIENCE)
    error = here.live.dead_letter_of(f"{sent[0].id}:follow-up").error
    assert "'elsewhere', which the app does not declare" in error and "PARTITIONS_FOLLOW_UP_QUEUES" in error
    here.live.wait_drained()
    assert here.live.client.llen("elsewhere") == 0
    assert [quiet.state(key).numbers for key in "abc"] == [[1], [1], [1]]  # type: ignore[union-attr]


@pytest.mark.parametrize("setting", ["other, elsewhere", "*"])
def test_a_setting_names_more_queues(make_client: MakeClient, setting: str) -> None:
    here = make_client(PARTITIONS_FOLLOW_UP_QUEUES=setting)
    here.start_worker("-Q", "partition,elsewhere")
    result = chain(add.s(message("a", 2)), here.sig("double").set(queue="elsewhere")).apply_async()
    assert result.get(timeout=PATIENCE)["number"] == 4


def test_which_queues_the_app_names() -> None:
    app = Celery("asked", set_as_current=False)
    app.conf.task_default_queue = "default"
    app.conf.task_queues = [Queue("declared")]
    app.conf.task_routes = [
        lambda *_: {"queue": "answered"},
        {"a.*": {"queue": "routed"}, "b": "short", "c": {"queue": Queue("as a queue")}},
        ("d", {"queue": "in a pair"}),
    ]
    is_allowed = known_queues(app, Names("partition"), ["more"])
    for queue in ["default", "declared", "routed", "short", "as a queue", "in a pair", "more", "partition", "partition.3"]:
        assert is_allowed(queue), queue
    app.amqp.queues["sent to"]  # Celery adds it
    for queue in ["answered", "sent to", "", "partition.x", "other.0", "celery"]:
        assert not is_allowed(queue), queue


def test_links_of_a_plain_task_go_to_no_unknown_queue(make_client: MakeClient) -> None:
    here = make_client()
    here.start_worker("-Q", "partition")
    elsewhere = here.sig("double").set(queue="elsewhere")
    queue = here.live.names.queue_name("0")
    here.sig("double", message("a", 1)).apply_async(queue=queue, task_id="link", link=elsewhere)
    here.sig("double", message("b", 1)).apply_async(queue=queue, task_id="error", link_error=elsewhere)
    chain(here.sig("double", message("c", 1)).set(queue=queue, task_id="chain"), group(elsewhere, elsewhere), here.sig("as_text")).apply_async()
    here.app.send_task("celery.group", args=[[dict(elsewhere)], "group", None], task_id="built in", queue=queue)
    for task_id in ("link", "error", "chain", "built in"):
        letter = here.live.dead_letter_of(task_id)
        assert letter.reason == "task-failed"
        assert "'elsewhere'" in letter.error and "PARTITIONS_FOLLOW_UP_QUEUES" in letter.error
    fine = here.sig("double", message("d", 1)).apply_async(queue=queue, link=here.sig("double").set(queue=queue))
    wait_until(lambda: len(here.ran("double:d")) == 2, PATIENCE)
    assert fine.get(timeout=PATIENCE)["number"] == 2
    assert here.ran("double:a") == here.ran("double:b") == here.ran("double:c") == []
    assert here.live.client.llen("elsewhere") == 0


def test_a_computation_can_refuse_all_follow_ups(make_client: MakeClient) -> None:
    here = make_client()
    here.start_worker("-Q", "partition")
    double = here.sig("double")
    sent = [
        alone.apply_async([message("a", 1)], link=double),
        alone.apply_async([message("b", 1)], link_error=double),
        chain(alone.s(message("c", 1)), double).apply_async().parent,
        here.app.send_task(alone.name, args=[{"number": "no key"}], queue="partition", link_error=double),
    ]
    reasons = [here.live.dead_letter_of(one.id).reason for one in sent]
    assert reasons == ["follow-ups-refused", "follow-ups-refused", "follow-ups-refused", "bad-key"]
    assert alone.apply_async([message("a", 2)]).get(timeout=PATIENCE)["number"] == 2
    here.live.wait_drained()
    assert here.ran("double") == []
    assert here.live.client.llen("celery") == 0
