"""The lists over the whole group, in the JSON API and on their pages: parked keys, computations, workers, keys, audit, histories."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from celery_partitions.admin.timeline import WHYS
from celery_partitions.model.effects import TURN_REASONS
from celery_partitions.model.timers import Entries, TimerEntry, alarm_entry
from celery_partitions.store.history import add_points
from celery_partitions.store.leases import balance
from celery_partitions.store.measurements import add_measurements
from celery_partitions.store.names import Names
from celery_partitions.store.telemetry import SINK, ComputationMeasurements, LastError
from celery_partitions.store.worker_reports import WorkerReport, dump_report
from tests.dashboard.declared import Account, pay
from tests.dashboard.group import Filled
from tests.dashboard.served import Served
from tests.dashboard.serving import filled, make_app, served, shop
from tests.support.applications import deliveries

__all__ = ["deliveries", "filled", "make_app", "served", "shop"]

HOSTILE = "<script>alert(1)</script>"


def test_parked_keys_of_the_whole_group(served: Served, filled: Filled) -> None:
    for number in range(60):
        filled.park(f"key {number}", since=100.0 + number)
    filled.park(HOSTILE, "KeyError: other", since=5.0)
    found = served.ask("/api/partitions/parked").json
    assert (found["total"], found["found"], found["pages"], found["waiting"]) == (61, 61, 2, 61)
    assert [one["key"] for one in found["keys"]][:2] == [HOSTILE, "key 0"]
    assert found["causes"] == [{"why": "hold", "task": pay.name, "count": 61}]
    assert len(served.ask("/api/partitions/parked?page=1").json["keys"]) == 11
    assert served.ask("/api/partitions/parked?q=other").json["found"] == 1
    assert served.ask("/api/partitions/parked?why=retry").json["found"] == 0
    assert served.ask("/api/partitions/parked?task=none").json["found"] == 0
    partition = filled.partition("key 0")
    assert 0 < served.ask(f"/api/partitions/parked?partition={partition}").json["found"] < 61
    assert served.ask("/api/partitions/parked?page=x").status == 400
    assert served.ask("/api/partitions/parked?partition=99").status == 404
    page = served.ask("/partitions/parked").text
    assert HOSTILE not in page and "61 keys" in page and 'rel="next"' in page


def test_many_parked_keys_are_retried_or_skipped_and_one_first(served: Served, filled: Filled) -> None:
    for number in range(5):
        filled.park(f"key {number}", since=100.0 + number)
    filled.park("other", "KeyError: other", since=5.0)
    first = served.post("/api/partitions/parked/retry", {"text": "key ", "limit": 1})
    assert first.json == {"done": 1, "message": "1 of 1 keys will be retried now"}
    parked = filled.group.parked_keys
    assert [parked.get(f"key {number}").attempt for number in range(3)] == [1, 2, 2]  # type: ignore[union-attr]
    assert served.post("/api/partitions/parked/skip", {"text": "other"}).json["done"] == 1
    assert [one.key for one in filled.group.dead_letters.all()] == ["other"]
    assert served.post("/api/partitions/parked/retry", {"why": "running"}).status == 400
    assert served.post("/api/partitions/parked/retry", {"nothing": 1}).status == 400
    assert ("me", "parked retry") in filled.who()


def measured(filled: Filled) -> None:
    names, client = filled.names, filled.client
    balance(client, names, "one@h/u", lease_seconds=60, partitions=4)
    error = LastError(f"ValueError: {HOSTILE}", 7.0, HOSTILE, "m")
    add_measurements(client, names, {}, {}, {pay.name: ComputationMeasurements(processed=9, failed=2, dead=1, last_error=error)})
    report = WorkerReport(1.0, 1.0, "host", 7, "1.0", "abcd", "3.11", 5_000_000, 12.5, {pay.name: 3}, {pay.name: 50})
    add_points(client, names, {}, {}, worker="one@h/u", report=dump_report(report))
    seconds = client.time()[0]  # type: ignore[index]
    points = [f"{seconds - ago} {left} 0 0 0 0 0 0 -1 250000" for ago, left in ((10, 300), (20, 200), (30, 0))]
    client.rpush(names.computation_history(pay.name, "fine"), *points)
    client.rpush(names.history("1", "fine"), *points)


def test_computations_with_rates_failures_and_calls(served: Served, filled: Filled) -> None:
    measured(filled)
    filled.park("a key")
    found = {one["computation"]: one for one in served.ask("/api/partitions/computations").json["computations"]}[pay.name]
    assert (found["processed"], found["failed"], found["dead_lettered"], found["parked"]) == (9, 2, 1, 1)
    assert (found["done_per_second"], found["latency_p99_seconds"]) == (15.0, 0.25)
    assert (found["in_flight"], found["concurrency"]) == (3, 50)
    page = served.ask("/partitions/computations").text
    assert "3 of 50" in page and HOSTILE not in page
    one = served.ask("/partitions/computation?name=" + pay.name.replace(" ", "+")).text
    assert "3 of 50 (6 %)" in one and HOSTILE not in one
    assert "No computation of this name" in served.ask(f"/partitions/computation?name={HOSTILE}").text


@pytest.mark.parametrize("reason", TURN_REASONS)
def test_a_key_that_waits_for_its_turn_is_no_trouble(served: Served, filled: Filled, reason: str) -> None:
    words = WHYS[reason]
    measured(filled)
    partition, now = filled.partition("calm"), filled.group.now()
    record = {"due": now + 60, "attempt": 1, "task": pay.name, "since": now - 5, "reason": reason}
    filled.client.hset(filled.names.parked(partition), "calm", json.dumps(record))
    filled.client.hset(filled.names.meta(partition), "running", 1)
    assert served.ask("/api/partitions/parked").json["found"] == 0
    assert served.ask(f"/api/partitions/parked?why={reason}").json["found"] == 1
    assert words in served.ask(f"/partitions/parked?why={reason}").text
    assert words in served.ask("/partitions/key?key=calm").text
    (row,) = [one for one in served.ask("/api/partitions/computations").json["computations"] if one["computation"] == pay.name]
    assert (row["parked"], row["waiting_for_rate"], row["filling"]) == (0, int(reason == "rate"), int(reason == "gather"))
    assert ("1 key</a> wait" in served.ask("/partitions/computation?name=" + pay.name.replace(" ", "+")).text) == (reason != "ready")
    assert not [one for one in served.ask("/api/partitions/attention").json if one["rule"] == "parked"]


def test_pipelines_are_drawn_with_what_flows_and_waits(served: Served, filled: Filled) -> None:
    names, client = filled.names, filled.client
    seconds = client.time()[0]  # type: ignore[index]
    points = [f"{seconds - ago} {left} 0 0 0 0 0 0 -1 -1" for ago, left in ((10, 300), (20, 200), (30, 0))]
    add_measurements(client, names, {}, {}, {"sales of a product": ComputationMeasurements(processed=9), f"{SINK}sales": ComputationMeasurements(processed=12)})
    client.rpush(names.computation_history(f"{SINK}sales", "fine"), *points)
    client.rpush(names.computation_history("sales of a product", "fine"), *points)
    client.lpush(names.queue("1"), *[json.dumps({"headers": {"task": "sales of a product"}})] * 7)
    client.lpush("sales", "a", "b")
    warehouse = Names(names.sink_group("warehouse"))
    client.lpush(warehouse.queue("0"), "a", "b", "c")
    client.rpush(warehouse.history("0", "fine"), *points)
    (found,) = [one for one in served.ask("/api/partitions/computations").json["pipelines"] if one["pipeline"] == "shop"]
    parts = {one["name"]: (one["kind"], one["per_second"], one["waiting"], one["is_estimate"]) for one in found["parts"]}
    assert parts == {
        "orders of the shop": ("source", None, 0, False),
        "stored orders": ("source", None, 0, False),
        "orders of a customer": ("stage", None, None, False),
        "check <the> order": ("stage", None, None, False),
        "sales of a product": ("stage", 15.0, 7, False),
        "sales": ("sink", 15.0, 2, False),
        "checked orders": ("sink", None, 0, False),
        "warehouse": ("sink", 15.0, 3, False),
    }
    ends = [(found["parts"][edge["start"]]["name"], found["parts"][edge["end"]]["name"]) for edge in found["edges"] if edge["kind"] == "queue"]
    assert ends == [("check <the> order", "sales of a product")]
    page = served.ask("/partitions/computations").text
    assert "<svg" in page and "check &lt;the&gt; order" in page and "<the>" not in page
    assert [one["computation"] for one in served.ask("/api/partitions/computations").json["computations"] if "\t" in one["computation"]] == []
    places = {one["sink"]: one for one in served.ask("/api/partitions/ends").json["places"]}
    assert places["sales"] == {"sink": "sales", "place": "RedisList", "pushed": 12, "per_second": 15.0, "waiting": 2}
    assert places["checked orders"]["per_second"] is None and "warehouse" not in places
    assert 'data-sink="sales"' in served.ask("/partitions/ends").text
    assert "stage · 15/s" in page and "sink · 15/s" in page and "7 waiting" in page and "2 kept" in page


def test_sinks_have_a_group_each_and_sources_a_lease(served: Served, filled: Filled) -> None:
    names = Names(filled.names.sink_group("warehouse"))
    filled.client.lpush(names.queue("0"), "a", "b")
    filled.client.hset(names.parked("0"), HOSTILE, json.dumps({"due": None, "attempt": 2, "task": "warehouse", "since": 5.0, "error": HOSTILE}))
    filled.client.hset(filled.names.source("stored orders"), mapping={"number": 7, "until": 1000})
    found = served.ask("/api/partitions/ends").json
    (sink,) = [one for one in found["sinks"] if one["sink"] == "warehouse"]
    assert (sink["waiting"], sink["parked"], sink["processes"], sink["dead_letters"]) == (2, 1, [], 0)
    assert {"name": "stored orders", "pushes": 7, "lease_until": 1.0, "ended": False} in found["sources"]
    page = served.ask("/partitions/ends").text
    assert "2 outputs" in page and "no process" in page and "/partitions/parked?sink=warehouse" in page


def test_every_page_and_action_works_on_the_group_of_a_sink(served: Served, filled: Filled) -> None:
    """With `?sink=NAME`; and nothing of it is done to the group itself."""
    names, text = Names(filled.names.sink_group("warehouse")), HOSTILE.replace("/", "%2F")
    for own in (filled.names, names):
        filled.client.hset(own.parked("0"), HOSTILE, json.dumps({"due": None, "attempt": 2, "task": "warehouse", "since": 5.0, "error": HOSTILE}))
        filled.client.lpush(own.mailbox("0", HOSTILE), b'{"headers": {"task": "t", "id": "m"}}')
    page = served.ask("/partitions/parked?sink=warehouse").text
    assert f"/partitions/key?sink=warehouse&amp;key={quote(HOSTILE, safe='')}" in page and HOSTILE not in page
    assert "Retry" in served.ask(f"/partitions/key?sink=warehouse&key={text}").text
    for path in ("/partition/0", "/partitions/dead-letters", "/partitions/history", "/api/partitions", "/api/partitions/0"):
        assert served.ask(f"{path}?sink=warehouse").status == 200, path
    assert served.ask("/api/partitions/parked?sink=warehouse").json["found"] == 1
    assert served.post("/api/partitions/key/retry?sink=warehouse", {"key": HOSTILE}).status == 200
    assert served.post("/api/partitions/0/pause?sink=warehouse").json["message"].endswith("is paused")
    assert filled.client.hget(names.parked("0"), HOSTILE) != filled.client.hget(filled.names.parked("0"), HOSTILE)
    (sink,) = [one for one in served.ask("/api/partitions/ends").json["sinks"] if one["sink"] == "warehouse"]
    assert sink["paused"] and not served.ask("/api/partitions/0").json["paused"]
    for path in ("/partitions/parked", "/api/partitions/parked"):
        assert served.ask(f"{path}?sink=nowhere").status == 404


def test_workers_with_code_memory_and_calls(served: Served, filled: Filled) -> None:
    measured(filled)
    found = served.ask("/api/partitions/workers").json
    (worker,) = found["workers"]
    assert (worker["node"], worker["code"], worker["memory_bytes"], worker["done_per_second"]) == ("one@h", "abcd", 5_000_000, 12.5)
    assert worker["calls"] == {pay.name: [3, 50]}
    assert len(worker["queues"]) == 5
    assert found["versions"] == 1
    assert "abcd" in served.ask("/partitions/workers").text


def test_the_next_timers_of_a_partition(served: Served, filled: Filled) -> None:
    due = 4_000_000_000_000
    filled.stored("bob", filled.group.codec.dump(pay.computation, "bob", Account(), Entries(remind=TimerEntry(due, due - 1))))
    partition = filled.partition("bob")
    filled.client.zadd(filled.names.delayed(partition), {alarm_entry(f"{pay.name} @ remind", "bob"): due - 1})
    (timer,) = served.ask(f"/api/partitions/{partition}").json["timers"]
    assert (timer["key"], timer["name"], timer["computation"], timer["due"]) == ("bob", "remind", pay.name, due / 1000)
    assert "Next timers" in served.ask(f"/partition/{partition}").text


def test_the_versions_of_states_and_code(served: Served, filled: Filled) -> None:
    measured(filled)
    filled.state("alice")
    found = served.ask("/api/partitions/versions").json
    (worker,) = found["workers"]
    assert (worker["node"], worker["code"], worker["is_older"]) == ("one@h", "abcd", False)
    page = served.ask("/partitions/versions").text
    assert [text for text in (pay.name, "<meter", "abcd", "no worker knows it") if text not in page] == []


def test_a_running_key_says_since_when_and_is_no_trouble(served: Served, filled: Filled) -> None:
    measured(filled)
    partition = filled.partition("slow")
    since = filled.group.now() - 30
    filled.client.hset(filled.names.parked(partition), "slow", json.dumps({"due": None, "attempt": 1, "task": pay.name, "since": since, "reason": "running"}))
    filled.client.hset(filled.names.meta(partition), "running", 1)
    (worker,) = served.ask("/api/partitions/workers").json["workers"]
    assert worker["running"] == {"count": 1, "oldest": [{"key": "slow", "task": pay.name, "since": since}]}
    assert served.ask("/api/partitions/parked").json["found"] == 0
    assert served.ask("/api/partitions/parked?why=running").json["found"] == 1
    assert "Its call is in flight for" in served.ask("/partitions/key?key=slow").text


def test_a_hot_key_says_that_it_takes_turns_and_is_no_trouble(served: Served, filled: Filled) -> None:
    now = filled.group.now()
    record = {"due": now, "attempt": 1, "task": pay.name, "since": now - 30, "reason": "ready"}
    filled.client.hset(filled.names.parked(filled.partition("hot")), "hot", json.dumps(record))
    assert served.ask("/api/partitions/parked").json["found"] == 0
    assert served.ask("/api/partitions/parked?why=ready").json["found"] == 1
    page = served.ask("/partitions/key?key=hot").text
    assert "takes turns with the other keys of its partition" in page
    assert "partitions-actions mt-2" not in page  # there is nothing to do


def test_keys_are_found_by_their_beginning_page_by_page(served: Served, filled: Filled) -> None:
    for number in range(300):
        filled.state(f"customer-{number}")
    filled.state("a*b")
    filled.state(HOSTILE)

    def search(prefix: str) -> set[str]:
        found, after = set(), ""
        while True:
            one = served.ask(f"/api/partitions/find-keys?computation={pay.name.replace(' ', '+')}&prefix={prefix}&after={after}").json
            found |= {key["key"] for key in one["keys"]}
            if one["more"] is None:
                return found
            after = one["more"]

    assert search("customer-1") == {f"customer-{number}" for number in range(300) if str(number).startswith("1")}
    assert search("a*") == {"a*b"}
    assert search("a?") == set(), "a prefix is no pattern"
    assert len(search("")) == 302
    assert served.ask("/api/partitions/find-keys?computation=none").json["keys"] == []
    assert served.ask(f"/api/partitions/find-keys?computation={pay.name.replace(' ', '+')}&after=x:y").status == 200
    page = served.ask(f"/partitions/keys?computation={pay.name.replace(' ', '+')}&prefix=%3Cscript")
    assert page.status == 200 and HOSTILE not in page.text


def test_the_audit_is_searched(served: Served, filled: Filled) -> None:
    for number in range(60):
        filled.group.audit.add(filled.client, "eve" if number else HOSTILE, "pause", {"queues": [f"partition.{number}"]})
    found = served.ask("/api/partitions/audit").json
    assert (found["total"], found["pages"], found["records"][0]["detail"]) == (60, 2, {"queues": ["partition.59"]})
    assert served.ask("/api/partitions/audit?q=partition.7%22").json["found"] == 1
    page = served.ask("/partitions/audit?page=1").text
    assert HOSTILE not in page and "alert(1)" in page


def test_the_samples_of_a_chart(served: Served, filled: Filled) -> None:
    measured(filled)
    at = served.ask("/api/partitions/history").json
    assert [(one[1], one[2], one[4]) for one in at["samples"]] == [(20.0, 20.0, 0.25), (10.0, 10.0, 0.25)]
    assert len(served.ask("/api/partitions/history?partition=1").json["samples"]) == 2
    assert served.ask("/api/partitions/history?partition=2").json["samples"] == []
    assert len(served.ask(f"/partitions/history?computation={pay.name.replace(' ', '+')}&seconds=3600").json["samples"]) == 2
    assert served.ask("/api/partitions/history?seconds=7").status == 400
    assert served.ask("/api/partitions/history?partition=99").status == 404


@pytest.mark.parametrize("query", ["", "?reason=bad-key", "?partition=1"])
def test_dead_letters_are_downloaded_as_json_lines(served: Served, filled: Filled, query: str) -> None:
    for number in range(230):
        filled.add_dead_letter("1", number)
    filled.add_dead_letter("2", 7, reason="other")
    answer = served.ask("/partitions/dead-letters.jsonl" + query)
    assert "attachment" in answer.headers["Content-Disposition"]
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert len(rows) == (230 if query else 231)
    assert {row["message"] for row in rows} == {"raw"}


def test_one_dead_letter_is_retried_first(served: Served, filled: Filled) -> None:
    for number in range(3):
        filled.add_dead_letter("1", number)
    assert served.post("/api/partitions/dead-letters/discard", {"reason": "bad-key", "limit": 1}).json["discarded"] == 1
    assert served.ask("/api/partitions/dead-letters").json["total"] == 2
    assert served.post("/api/partitions/dead-letters/discard", {"all": True, "limit": 0}).status == 400


def test_what_needs_you_is_in_the_api(served: Served, filled: Filled) -> None:
    found = served.ask("/api/partitions/attention").json
    assert found[0].keys() == {"rule", "severity", "what", "why", "since", "action", "page", "count"}
    assert found[0]["rule"] == "no-owner"
