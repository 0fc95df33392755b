"""Links, chains, groups and chords that mix computations and plain tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError

from tests.model.build import raw_envelope
from tests.results.application import Refused, add, gather, quiet, refuse, tried
from tests.results.conftest import APART, Client
from tests.support.wait import wait_until

PATIENCE = 60


def message(key: str, number: int) -> dict[str, Any]:
    return {"key": key, "number": number}


def test_a_link_gets_the_value(here: Client, key: str) -> None:
    quiet.apply_async([message(key, 1)], link=[here.sig("double"), add.s()])
    wait_until(lambda: here.ran() == [f"double:{key}:1"])
    assert add.delay(message(key, 1)).get(timeout=PATIENCE)["number"] == 2


def test_a_chain_through_computations_and_plain_tasks(here: Client, key: str) -> None:
    result = chain(add.s(message(key, 1)), here.sig("double"), add.s(), quiet.s(), here.sig("double")).apply_async()
    assert result.get(timeout=PATIENCE) == message(key, 6)  # 1 → 2, and 1 + 2 = 3; the first of `quiet` is 3
    assert here.ran() == [f"double:{key}:1", f"double:{key}:3"]
    ids = [result.id]
    while result.parent is not None:
        result = result.parent
        ids.append(result.id)
    wanted = ["SUCCESS", "PENDING", "SUCCESS", "SUCCESS", "SUCCESS"]
    # Celery's tracer sends what follows a plain task before it stores that task's result.
    wait_until(lambda: [here.meta(one)["status"] for one in ids] == wanted)
    metas = [here.meta(one) for one in ids]
    assert metas[0]["parent_id"] == ids[1]
    assert [child[0][0] for child in metas[2]["children"]] == [ids[1]]


def test_an_immutable_signature_gets_no_argument(here: Client, key: str) -> None:
    result = chain(add.s(message(key, 1)), add.si(message(key, 10)), here.sig("constant", "x").set(immutable=True)).apply_async()
    assert result.get(timeout=PATIENCE) == "x"
    assert add.delay(message(key, 0)).get(timeout=PATIENCE)["number"] == 11


def test_the_members_of_a_group(here: Client, key: str) -> None:
    result = group(add.s(message(f"{key}-{n}", n)) for n in range(5)).apply_async()
    assert [one["number"] for one in result.get(timeout=PATIENCE)] == [0, 1, 2, 3, 4]
    assert here.meta(result.results[0].id)["group_id"] == result.id


def test_a_group_after_a_computation(here: Client, key: str) -> None:
    result = (add.s(message(key, 2)) | group(here.sig("double"), add.s())).apply_async()
    assert result.get(timeout=PATIENCE) == [message(key, 4), message(key, 4)]


def test_a_chord_of_computations_starts_a_plain_task(here: Client, key: str) -> None:
    header = [add.s(message(f"{key}-{n}", n)) for n in range(5)]
    assert chord(header, here.sig("as_text")).apply_async().get(timeout=PATIENCE) == "[0, 1, 2, 3, 4]"
    assert here.ran() == ["as_text:[0, 1, 2, 3, 4]"]


def test_a_chord_of_both_starts_a_computation(here: Client, key: str) -> None:
    header = [add.s(message(f"{key}-{n}", n)) if n % 2 else here.sig("double", message(key, n)) for n in range(6)]
    result = chord(header, gather.s()).apply_async()
    assert result.get(timeout=PATIENCE) == message("gathered", 0 + 1 + 4 + 3 + 8 + 5)
    here.live.wait_drained()  # a second body would run after the first
    assert here.ran("gather") == ["gather:[0, 1, 3, 4, 5, 8]"]


def test_nothing_is_left_of_a_chord(here: Client, key: str) -> None:
    result = chord([add.s(message(key, 1)), add.s(message(key, 2))], here.sig("as_text")).apply_async()
    result.get(timeout=PATIENCE)
    left = [name.decode() for name in here.live.client.scan_iter(f"celery-taskset-meta-{result.parent.id}*")]
    assert left == [f"celery-taskset-meta-{result.parent.id}.c"]
    assert here.live.client.get(left[0]) == b"done"


def test_a_chord_within_a_chain_and_a_chain_within_a_chord(here: Client, key: str) -> None:
    flow = chain(
        add.s(message(key, 1)),
        group(chain(here.sig("double"), add.s()), quiet.s(), group(here.sig("double"), here.sig("double"))),
        here.sig("as_text"),
        here.sig("constant"),
    )
    assert flow.apply_async().get(timeout=PATIENCE) in ("[3, 1, 2, 2]", "[3, 1, [2, 2]]")
    assert len(here.ran("as_text")) == 1


def test_a_chord_as_a_link_of_a_computation(here: Client, key: str) -> None:
    body = here.sig("as_text")
    add.apply_async([message(key, 4)], link=chord([here.sig("double"), add.s()], body))
    wait_until(lambda: here.ran("as_text") == ["as_text:[8, 8]"])


def test_a_failure_calls_the_error_callback(here: Client, key: str) -> None:
    callbacks = [here.sig("on error"), here.sig("on error here")]
    failed = refuse.apply_async([message(key, -1)], link_error=callbacks, link=here.sig("double"))
    wait_until(lambda: len(here.ran()) == 2)
    assert sorted(here.ran()) == [f"on error here:{failed.id}:Refused('{key}', -1)", f"on error:{failed.id}"]


def test_a_failure_ends_a_chain(here: Client, key: str) -> None:
    result = chain(refuse.s(message(key, -1)), here.sig("double"), here.sig("double")).apply_async()
    with pytest.raises(Refused):
        result.get(timeout=PATIENCE)
    assert here.ran() == []


def test_a_failure_fails_a_chord(here: Client, key: str) -> None:
    header = [refuse.s(message(key, -1)), add.s(message(key, 1)), here.sig("double", message(key, 1))]
    result = chord(header, here.sig("as_text").on_error(here.sig("on error"))).apply_async()
    with pytest.raises(ChordError, match=r"Dependency .* raised Refused\('key-.*', -1\)"):
        result.get(timeout=PATIENCE, follow_parents=False)
    wait_until(lambda: here.ran("on error") == [f"on error:{result.id}"])
    assert here.ran("as_text") == []


def test_an_invalid_message_fails_its_chord(here: Client, key: str) -> None:
    bad = here.sig("add", [1]).set(queue=here.installation.queue("0"))
    here.app.tasks.unregister("results.add")
    result = chord([bad, here.sig("double", message(key, 1))], here.sig("as_text")).apply_async()
    with pytest.raises(ChordError, match="Expected `object`, got `array`"):
        result.get(timeout=PATIENCE, follow_parents=False)


def test_a_value_that_does_not_fit_the_next_task_fails_the_chain(here: Client, key: str) -> None:
    """The message itself was applied. Its follow-up is a dead letter."""
    result = chain(refuse.s(message(key, 3)), gather.s(), here.sig("double")).apply_async()
    for one in (result.parent.parent, result.parent, result):
        with pytest.raises(Exception, match="Expected `array`, got `object`"):
            one.get(timeout=PATIENCE)
    assert here.live.dead_letter_of(f"{result.parent.parent.id}:follow-up").reason == "follow-up-failed"
    assert refuse.delay(message(key, 1)).get(timeout=PATIENCE)["number"] == 4


def test_stamps_root_and_parent_are_carried(here: Client, key: str) -> None:
    flow = chain(add.s(message(key, 1)), here.sig("headers"))
    flow.stamp(monitor="m-1")
    result = flow.apply_async()
    found = result.get(timeout=PATIENCE)
    assert found == {"root": result.parent.id, "parent": result.parent.id, "stamps": {"monitor": "m-1"}}


def test_follow_ups_of_a_retried_message_are_sent_once(here: Client, key: str) -> None:
    result = tried.apply_async([message(key, 7)], link=[here.sig("double"), quiet.s()], link_error=here.sig("on error"))
    assert result.get(timeout=PATIENCE) == message(key, 7)
    assert quiet.apply_async([message(key, 1)], ignore_result=False).get(timeout=PATIENCE)["number"] == 8
    wait_until(lambda: here.ran() == [f"double:{key}:7"])


def test_a_foreign_client_can_name_links_in_its_own_json(here: Client, key: str) -> None:
    link = '{"task":"results.double","args":[],"kwargs":{},"options":{},"subtask_type":null,"immutable":false}'
    body = f'[[{{"key":"{key}","number":3}}],{{}},{{"callbacks":[{link}],"chain":null}}]'
    raw = raw_envelope(body.encode(), headers={"task": "results.quiet", "id": f"{key}-foreign"})
    here.live.client.lpush("partition", raw)
    wait_until(lambda: here.ran() == [f"double:{key}:3"])


def test_a_producer_cannot_forge_a_follow_up(here: Client, key: str) -> None:
    embed = {"callbacks": [here.sig("double")]}
    about = {"request": {"id": "x", "ignore_result": False, **embed}, "state": "SUCCESS", "result": 1, "traceback": None}
    for name, headers in (("bare", {}), ("sealed", {"seal": "0" * 32}), ("odd", {"seal": ["\u00e9"]})):
        raw = raw_envelope(
            json.dumps([[], about, embed]).encode(), headers={"task": "partitions.follow_up", "id": f"{key}-{name}", **headers}
        )
        here.live.client.lpush("partition.0", raw)
        assert here.live.dead_letter_of(f"{key}-{name}").reason == "unknown-task"
    assert here.ran() == []


def test_a_follow_up_that_failed_is_sent_again_by_a_retry(here: Client, key: str) -> None:
    here.live.client.set(APART, "no list")
    sent = quiet.apply_async([message(key, 2)], link=[here.sig("double"), here.sig("double").set(queue=APART)])
    dead_letter = here.live.dead_letter_of(f"{sent.id}:follow-up")
    assert here.ran() == []  # all follow-ups, or none
    here.live.client.delete(APART)
    here.live.group.dead_letters.retry([dead_letter], by="a test")
    wait_until(lambda: here.live.client.llen(APART) == 1)
    wait_until(lambda: here.ran() == [f"double:{key}:2"])
