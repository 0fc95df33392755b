"""If an outcome cannot be written, the message that causes this becomes a dead letter. Other messages are unaffected."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.worker.plain_tasks import PlainTaskRun
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.server import RedisServer
from tests.support.wait import wait_until
from tests.worker.by_hand import LoopByHand

#: kombu cannot decode it, and its error text contains a lone surrogate.
NO_UUID = '[[{"__type__": "uuid", "__value__": {"\\ud800": 1}}], {}, {}]'
#: Texts that Redis, a log, a page or an encoder on the way there may refuse.
HOSTILE = ["\ud800", "a\udcffb", "\x00", "line\nline\r\n", "\x1b[31m", "\u202e", "%s %d {}", "'\"\\", "x" * 70_000, "\ufeff", "𐀀", ""]


def raw_message(task: object, body: str, **headers: object) -> bytes:
    message = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": "an id", "lang": "py", "root_id": None, "parent_id": None, **headers, "task": task},
        "properties": {"body_encoding": "utf-8", "delivery_info": {"exchange": "", "routing_key": "partition.0"}, "delivery_tag": "a tag"},
    }
    return json.dumps(message).encode()


def step_of(number: int) -> bytes:
    return raw_message("record", json.dumps([[{"key": "key", "number": number}], {}, {}]))


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> LiveGroup:
    return make_live(PARTITIONS=1, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_EXHAUSTED="dead_letter")


def put(live: LiveGroup, *raws: bytes) -> None:
    live.client.lpush(live.names.queue("0"), *raws)


def only_dead_letter(live: LiveGroup) -> DeadLetter:
    (dead_letter,) = live.dead_letters()
    return dead_letter


def test_a_plain_task_whose_body_cant_be_decoded(live: LiveGroup) -> None:
    live.start_worker()
    put(live, step_of(1), raw_message("celery.backend_cleanup", NO_UUID), step_of(2))
    wait_until(lambda: live.numbers_of(record, "key") == [1, 2], PATIENCE_SECONDS)
    assert only_dead_letter(live).reason == "task-failed"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_plain_task_fails_with_hostile_text(live: LiveGroup, loop: LoopByHand, text: str) -> None:
    loop.run_plain_task = lambda raw: PlainTaskRun([], text, text)
    put(live, step_of(1), raw_message("celery.backend_cleanup", "[[], {}, {}]"), step_of(2))
    loop.take_turns()
    assert live.numbers_of(record, "key") == [1, 2]
    assert only_dead_letter(live).reason == "task-failed"


hostile = st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=20)
odd = hostile | st.none() | st.integers() | st.lists(hostile, max_size=2) | st.dictionaries(hostile, hostile, max_size=2)


@st.composite
def hostile_messages(draw: st.DrawFn) -> bytes:
    """Messages for registered and unknown tasks, with hostile texts anywhere."""
    task = draw(st.sampled_from(["record", "fail", "celery.backend_cleanup"]) | hostile)
    message = draw(st.fixed_dictionaries({"key": hostile, "number": st.integers(0, 9), "fail": st.booleans()}) | odd)
    names = draw(st.dictionaries(hostile, odd, max_size=2))
    embed: dict[str, Any] = draw(
        st.dictionaries(st.sampled_from(["callbacks", "errbacks", "chain", "chord"]), odd | st.lists(signatures, max_size=2), max_size=2)
    )
    headers = draw(
        st.dictionaries(
            st.sampled_from(["id", "root_id", "parent_id", "group", "eta", "expires", "ignore_result", "argsrepr", "origin", "lang", "stamps"]),
            odd | st.booleans(),
            max_size=4,
        )
    )
    return raw_message(task, json.dumps([[message], names, embed]), **headers)


signatures = st.fixed_dictionaries(
    {
        "task": st.sampled_from(["record", "plain"]) | hostile,
        "args": st.lists(odd, max_size=1),
        "kwargs": st.dictionaries(hostile, odd, max_size=1),
        "options": st.dictionaries(st.sampled_from(["queue", "task_id", "reply_to", "exchange", "priority", "link"]), odd, max_size=2),
        "subtask_type": st.none(),
        "immutable": st.booleans(),
    }
)


@given(raws=st.lists(hostile_messages(), min_size=1, max_size=6), error=hostile)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_message_content_stops_its_partition(live: LiveGroup, loop: LoopByHand, raws: list[bytes], error: str) -> None:
    loop.run_plain_task = lambda raw: PlainTaskRun([], error, error)
    put(live, *raws, step_of(1))
    loop.look_again()
    loop.take_turns()
    assert live.client.llen(live.names.queue("0")) == 0
    assert live.numbers_of(record, "key")[-1] == 1


def test_an_outcome_that_is_too_large_for_a_commit(live: LiveGroup, loop: LoopByHand) -> None:
    """The batch is run in halves until each fits."""
    loop.store.max_bytes = 5_000
    live.send(record, [Step(f"key-{number}", number) for number in range(200)])
    live.send(record, [Step("key-0", 200)])
    assert loop.take_turns() > 4
    assert live.numbers_of(record, "key-0") == [0, 200]
    assert len(live.numbers(record)) == 200
    assert live.dead_letters() == []


@pytest.mark.timeout(300)
def test_a_commit_on_which_the_server_closes_the_connection(
    make_live: Callable[..., LiveGroup], server_factory: Callable[..., RedisServer]
) -> None:
    """The server's limits may be lower than usual. This is not an outage: the other partitions continue, and so does this one."""
    server = server_factory(config={"proto-max-bulk-len": "1mb"})
    live = make_live(REDIS_URL=server.url(), PARTITIONS=2, PARTITIONS_MESSAGE_BYTES=10_000_000, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    worker = live.start_worker(module="tests.worker.growing").wait_ready()
    # Each message has its own key: in one batch, a later message of the same key would replace the large state before it is written.
    for number in (1, 2, 3):
        live.app.send_task("grow", args=[{"key": f"key {number}", "size": 2_000_000 if number == 2 else number}])
    wait_until(lambda: live.dead_letters(), PATIENCE_SECONDS)
    wait_until(lambda: live.processed() == 2, PATIENCE_SECONDS)
    assert only_dead_letter(live).reason == "unwritable"
    assert worker.running


@pytest.mark.parametrize("computation", ["record", "fail"])
@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord"])
@pytest.mark.parametrize("links", ["x" * 5_000, {"task": "plain"}, 7], ids=lambda one: type(one).__name__)
def test_links_that_are_not_a_list_send_nothing(live: LiveGroup, loop: LoopByHand, computation: str, name: str, links: object) -> None:
    """Celery would send one message per character of a text."""
    put(live, raw_message(computation, json.dumps([[{"key": "key", "number": 1}], {}, {name: links}])), step_of(2))
    loop.take_turns()
    assert 2 in live.numbers_of(record, "key")
    assert sum(live.client.llen(queue) for queue in live.client.scan_iter(_type="list") if b"dead" not in queue) == 0
    if (computation == "fail") == (name == "errbacks") and not (name == "chord" and isinstance(links, dict)):
        assert {one.reason for one in live.dead_letters()} & {"follow-up-failed"}


@pytest.mark.parametrize("task_id", [["a", "list"], {}, 7])
def test_a_link_whose_task_id_is_no_text_is_not_sent(live: LiveGroup, loop: LoopByHand, task_id: object) -> None:
    """Celery makes a result object for it, and cannot hash it."""
    link = {"task": "plain", "args": [], "kwargs": {}, "options": {"queue": "celery", "task_id": task_id}, "subtask_type": None, "immutable": True}
    put(live, raw_message("record", json.dumps([[{"key": "key", "number": 1}], {}, {"callbacks": [link]}])), step_of(2))
    loop.take_turns()
    assert live.numbers_of(record, "key") == [1, 2]
    assert live.client.llen("celery") == 0
    assert only_dead_letter(live).reason == "follow-up-failed"


@pytest.mark.parametrize("links", [30])
def test_many_links_to_keys_of_the_wrong_type_cost_one_more_turn(live: LiveGroup, loop: LoopByHand, links: int) -> None:
    for number in range(links):
        live.client.set(f"no list {number}", "a text")
    callbacks = [
        {"task": "plain", "args": [], "kwargs": {}, "options": {"queue": f"no list {number}"}, "subtask_type": None, "immutable": True}
        for number in range(links)
    ]
    put(live, raw_message("record", json.dumps([[{"key": "key", "number": 1}], {}, {"callbacks": callbacks}])), step_of(2))
    assert loop.take_turns() <= 6
    assert live.numbers_of(record, "key") == [1, 2]
    assert only_dead_letter(live).reason == "follow-up-failed"
