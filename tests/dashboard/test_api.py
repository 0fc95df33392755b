"""The JSON API."""

from __future__ import annotations

import base64
from urllib.parse import quote, unquote

import msgspec
import pytest

from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.task_lines import line_of_task
from celery_partitions.store.measurements import add_measurements
from celery_partitions.store.recent_commits import RecentCommit
from celery_partitions.store.telemetry import Measurements
from tests.dashboard.declared import Payment, pay
from tests.dashboard.group import Filled
from tests.dashboard.served import Served
from tests.dashboard.serving import filled, make_app, served, shop

__all__ = ["filled", "make_app", "served", "shop"]


def test_the_overview_has_a_row_for_each_queue(served: Served, filled: Filled) -> None:
    filled.add_dead_letter("1", 1)
    found = served.ask("/api/partitions")
    assert found.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert [row["partition"] for row in found.json["partitions"]] == ["0", "1", "2", "3", "ingress"]
    assert found.json["partitions"][1]["dead_letters"] == found.json["totals"]["dead_letters"] == 1


def test_the_versions_of_states(served: Served, filled: Filled) -> None:
    filled.state("a", balance=3)
    found = served.ask("/api/partitions/versions").json
    (one,) = [each for each in found["computations"] if each["computation"] == pay.name]
    assert (one["states"], one["versions"], one["partitions"], one["workers"], found["waits"]) == (1, {"1": 1}, {"1": 1}, {}, [])


def test_a_partition_shows_its_messages_and_keys(served: Served, filled: Filled) -> None:
    partition = filled.partition("a")
    filled.state("a", balance=3)
    filled.park("a")
    for amount in range(60):
        pay.delay(Payment("a", amount))
    found = served.ask(f"/api/partitions/{partition}").json
    assert found["waiting"] == 60 and found["sampled"] == 60
    assert [message["text"] for message in found["messages"]][:2] == [
        '{"account":"a","amount":0}',
        '{"account":"a","amount":1}',
    ]
    assert len(found["messages"]) == 50 and found["messages"][0]["key"] == "a"
    assert found["hottest"] == [{"computation": pay.name, "key": "a", "messages": 60}]
    assert [one["key"] for one in found["largest"]] == [one["key"] for one in found["parked_keys"]] == ["a"]
    assert served.ask("/api/partitions/ingress").json["queue"] == "partition"


def test_a_partition_shows_its_last_commits(served: Served, filled: Filled) -> None:
    commits = [RecentCommit(at=5.0, commit_number=number, worker="w@h", token=7, taken=2, processed=2) for number in (1, 2)]
    add_measurements(filled.client, filled.names, {"1": Measurements()}, {"1": commits})
    found = served.ask("/api/partitions/1").json["commits"]
    assert [one["commit_number"] for one in found] == [2, 1]
    assert (found[0]["processed"], found[0]["failed"], found[0]["commit_seconds"], found[0]["error"]) == (2, 0, None, "")
    assert served.ask("/api/partitions/0").json["commits"] == []


def test_a_partition_that_does_not_exist(served: Served) -> None:
    for partition in ("4", "007", "9999999999999999"):
        answer = served.ask(f"/api/partitions/{partition}")
        assert answer.status == 404 and "expected 0 to 3" in answer.json["error"]


@pytest.mark.parametrize("partition", ["abc", "4", "007", "%C2%B2", "9" * 5000])
def test_dead_letters_of_a_partition_that_does_not_exist(served: Served, partition: str) -> None:
    """The partition is in the query; the path takes only digits."""
    answer = served.ask(f"/api/partitions/dead-letters?partition={partition}")
    assert answer.status == 404 and "expected 0 to 3" in answer.json["error"]
    assert served.ask(f"/partitions/dead-letters?partition={partition}").status == 404
    answer = served.post("/api/partitions/dead-letters/retry", {"partition": unquote(partition)})
    assert answer.status == 404 and "expected 0 to 3" in answer.json["error"]


def test_a_key_shows_its_state_and_waiting_messages(served: Served, filled: Filled) -> None:
    filled.state("a", balance=3, notes=["x"])
    filled.park("a")
    pay.delay(Payment("a", 7))
    found = served.ask("/api/partitions/keys/a").json
    assert found == served.ask("/api/partitions/keys?key=a").json | {"at": found["at"]}
    assert str(found["partition"]) == filled.partition("a")
    [state] = found["states"]
    assert (state["computation"], state["type"], state["form"], state["verified"]) == (
        pay.name,
        "Account",
        "signed",
        True,
    )
    assert state["state"] == {"balance": 3, "notes": ["x"]}
    assert [(node["name"], node["type"], node["text"]) for node in state["tree"]["children"]] == [
        ("balance", "int", "3"),
        ("notes", "list", ""),
    ]
    assert found["parked"]["error"] == "ValueError: no" and len(found["parked"]["messages"]) == 1
    assert [message["text"] for message in found["messages"]] == ['{"account":"a","amount":7}']


@pytest.mark.parametrize("partition", ["2", "ingress"])
def test_the_line_of_an_unknown_task_is_shown_where_it_waits(served: Served, filled: Filled, partition: str) -> None:
    line, names, client = line_of_task("new task", partition), filled.names, filled.client
    record = ParkedKey(due=9e9, attempt=2, error="this worker has no task named 'new task'", reason="unknown-task")
    client.hset(names.parked(partition), line, msgspec.json.encode(record))
    client.lpush(names.mailbox(partition, line), b"message")
    page = served.ask(f"/api/partitions/{partition}").json
    assert [(one["key"], one["reason"]) for one in page["parked_keys"]] == [(line, "unknown-task")]
    found = served.ask(f"/api/partitions/keys?key={quote(line)}").json
    assert str(found["partition"]) == partition and len(found["parked"]["messages"]) == 1
    for where in (f"/partition/{partition}", f"/partitions/key?key={quote(line)}"):
        shown = served.ask(where)
        assert shown.status == 200 and "new task" in shown.text, where


def test_a_key_may_be_any_bytes(served: Served, filled: Filled) -> None:
    raw = b"\xff/ \x00?"
    key = raw.decode("utf-8", "surrogateescape")
    filled.state(key, balance=5)
    coded = base64.b64encode(raw).decode()
    ways = [f"?key={quote(coded)}&base64=1", f"?key={quote(raw)}", f"/{quote(coded, safe='')}?base64=1"]
    for way in ways:
        found = served.ask("/api/partitions/keys" + way).json
        assert found["key_base64"] == coded and found["states"][0]["state"]["balance"] == 5, way
        assert served.ask("/partitions/key" + way.partition("/")[0] or way).status == 200
    assert served.ask("/api/partitions/keys?key=%ff&base64=1").status == 400
    assert served.ask("/api/partitions/keys?key=" + "k" * 5000).status == 400
    assert served.ask("/api/partitions/keys").status == 400


def test_a_state_not_signed_by_us_is_not_unpickled(served: Served, filled: Filled) -> None:
    filled.state("a", balance=3)
    data = filled.client.hget(filled.names.states(filled.partition("a"), pay.name), "a")
    assert isinstance(data, bytes)
    for forged, form, verified in ((b"\x01" + data[17:], "unsigned", None), (data[:-1] + b"!", "signed", False)):
        filled.stored("a", forged)
        [state] = served.ask("/api/partitions/keys/a").json["states"]
        assert (state["form"], state["verified"], state["tree"], state["state"]) == (form, verified, None, None)
        assert state["error"] and state["bytes"] == len(forged)


def test_a_computation_that_this_process_does_not_have(served: Served, filled: Filled) -> None:
    filled.stored("a", b"\x02whatever that is", name="of another app")
    [state] = served.ask("/api/partitions/keys/a").json["states"]
    assert state["computation"] == "of another app" and "does not unpickle" in state["error"]
    assert state["bytes"] == 17 and state["tree"] is None


def test_dead_letters_are_grouped_and_found_by_key_id_and_text(served: Served, filled: Filled) -> None:
    ids = [filled.add_dead_letter("1", number, key="blue", message_id="one") for number in range(12)]
    body = base64.b64encode(b'[[{"account": "secret words"}], {}, {}]').decode()
    raw = msgspec.json.encode(
        {
            "body": body,
            "headers": {"task": "t", "id": "two"},
            "properties": {"body_encoding": "base64", "delivery_tag": "x", "delivery_info": {"exchange": ""}},
        }
    )
    other = filled.add_dead_letter("ingress", 1, reason="unknown-task", raw=raw, key=None, message_id="two")
    found = served.ask("/api/partitions/dead-letters").json
    assert (found["total"], found["found"], found["found_groups"]) == (13, 13, 2)
    assert [(group["count"], group["reason"]) for group in found["groups"]] == [(12, "bad-key"), (1, "unknown-task")]
    assert len(found["groups"][0]["dead_letters"]) == 10
    alone = served.ask(f"/api/partitions/dead-letters?fingerprint={found['groups'][0]['fingerprint']}").json
    assert len(alone["groups"][0]["dead_letters"]) == 12
    for query, expected in (
        ("q=BLUE", 12),
        (f"q={ids[11]}", 1),
        ("q=secret%20words", 1),
        ("q=two", 1),
        (f"q={other}", 1),
        ("partition=ingress", 1),
        ("reason=bad-key&partition=1", 12),
        ("reason=bad-key&partition=2", 0),
        ("q=nowhere", 0),
        ("after=5", 13),
        ("after=5.5", 0),
        ("before=5", 0),
        ("q=BLUE&after=4&before=6", 12),
    ):
        assert served.ask(f"/api/partitions/dead-letters?{query}").json["found"] == expected, query
    assert served.ask("/api/partitions/dead-letters?after=yesterday").status == 400
    assert "since " in served.ask("/partitions/dead-letters?after=5").text
    assert served.post("/api/partitions/dead-letters/discard", {"before": 5.0}).json["discarded"] == 0
    assert served.post("/api/partitions/dead-letters/discard", {"after": 5.0, "text": "BLUE"}).json["discarded"] == 12
