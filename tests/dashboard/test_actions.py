"""Actions of the pages: as those of the commands, audited under the Flower user's name, refused on stale data."""

from __future__ import annotations

import base64

import pytest
from celery import Celery
from tornado.web import create_signed_value

from celery_partitions.store.leases import balance
from tests.dashboard.declared import pay
from tests.dashboard.group import Filled
from tests.dashboard.served import Served
from tests.dashboard.serving import filled, make_app, served, shop

__all__ = ["filled", "make_app", "served", "shop"]


def test_pause_and_resume(served: Served, filled: Filled) -> None:
    answer = served.post("/api/partitions/2/pause")
    assert answer.json == {"queue": "partition.2", "changed": True, "message": "partition.2 is paused"}
    assert served.post("/api/partitions/2/pause").json["changed"] is False
    assert served.ask("/api/partitions").json["partitions"][2]["paused"] is True
    assert served.post("/api/partitions/2/resume").json["changed"] is True
    assert served.ask("/api/partitions").json["partitions"][2]["paused"] is False, "the next read shows the change"
    assert filled.who()[-1] == ("me", "pause")


def test_a_worker_is_drained_with_the_number_of_partitions_left(served: Served, filled: Filled) -> None:
    balance(filled.client, filled.names, "one@h/u", lease_seconds=60, partitions=4)
    answer = served.post("/api/partitions/workers/drain", {"node": "one@h"}).json
    assert (answer["changed"], answer["message"]) == (True, "one@h gives up its partitions, and takes no more")
    assert served.post("/api/partitions/workers/drain", {"node": "one@h"}).json["changed"] is False
    assert "draining: 5 queues left" in served.ask("/partitions/workers").text
    filled.client.delete(filled.names.owners)  # as if the worker had released them
    assert ">drained<" in served.ask("/partitions/workers").text
    assert served.post("/api/partitions/workers/undrain", {"node": "one@h"}).json["changed"] is True
    assert "drain" not in served.ask("/partitions/workers").text.partition("<tbody>")[2].partition("data-post")[0]
    assert served.post("/api/partitions/workers/drain", {"node": "<b>"}).status == 404
    assert [what for _, what in filled.who()] == ["undrain", "drain"]


@pytest.mark.parametrize(("what", "left"), [("retry", 1), ("skip", 0), ("discard", 0)])
def test_a_parked_key(served: Served, filled: Filled, what: str, left: int) -> None:
    filled.park("a")
    seen = served.ask("/api/partitions/keys/a").json["parked"]
    body = {"key": "a", "message_id": seen["message_id"], "since": seen["since"]}
    assert served.post(f"/api/partitions/key/{what}", {**body, "since": 4.0}).status == 409, "another one failed"
    assert served.post(f"/api/partitions/key/{what}", body).status == 200
    assert filled.client.llen(filled.names.mailbox(filled.partition("a"), "a")) == left  # type: ignore[arg-type]
    assert filled.who()[0] == ("me", f"parked {what}")
    assert served.post(f"/api/partitions/key/{what}", {"key": "b"}).status == 409


def test_a_state_is_previewed_and_then_set(served: Served, filled: Filled) -> None:
    filled.state("a", balance=3, notes=["x"])
    body = {"key": "a", "computation": pay.name, "state": {"balance": 9}}
    look = served.post("/api/partitions/key/state", {**body, "preview": True}).json
    assert (look["old"], look["new"]) == ({"balance": 3, "notes": ["x"]}, {"balance": 9, "notes": ["x"]})
    whole = served.post("/api/partitions/key/state", {**body, "replace": True, "preview": True}).json
    assert whole["new"] == {"balance": 9, "notes": []}
    assert served.post("/api/partitions/key/state", body).status == 400, "the digest of the previewed state is required"
    assert (
        served.post("/api/partitions/key/state", {**body, "digest": look["digest"], "state": '{"balance": 9}'}).status
        == 200
    )
    assert pay.state("a").balance == 9
    assert filled.who() == [("me", "state set")]


def test_a_state_that_has_changed_is_not_overwritten(served: Served, filled: Filled) -> None:
    filled.state("a", balance=3)
    body = {"key": "a", "computation": pay.name, "state": {"balance": 9}}
    digest = served.post("/api/partitions/key/state", {**body, "preview": True}).json["digest"]
    filled.state("a", balance=4)
    answer = served.post("/api/partitions/key/state", {**body, "digest": digest})
    assert answer.status == 409 and "changed meanwhile" in answer.json["error"]
    forget = {"key": "a", "computation": pay.name, "digest": digest}
    assert served.post("/api/partitions/key/forget", forget).status == 409
    assert pay.state("a").balance == 4 and filled.who() == []
    assert served.post("/api/partitions/key/forget", {"key": "a", "computation": pay.name}).status == 200
    assert served.post("/api/partitions/key/forget", {"key": "a", "computation": pay.name}).status == 409
    assert filled.who() == [("me", "state delete")]


@pytest.mark.parametrize("preview", [True, False])
def test_merging_with_an_unreadable_state_is_refused(served: Served, filled: Filled, preview: bool) -> None:
    filled.stored("a", b"\x09nonsense")
    body = {"key": "a", "computation": pay.name, "state": {"balance": 9}}
    digest = served.post("/api/partitions/key/state", {**body, "replace": True, "preview": True}).json["digest"]
    merging = {**body, "preview": preview, "digest": digest}
    answer = served.post("/api/partitions/key/state", merging)
    assert answer.status == 409
    assert "cannot keep its fields" in answer.json["error"] and "the byte 0x09" in answer.json["error"]
    assert filled.client.hget(filled.names.states(filled.partition("a"), pay.name), "a") == b"\x09nonsense"
    assert filled.who() == []


def test_a_state_that_json_cannot_write_is_shown_and_deleted(served: Served, filled: Filled) -> None:
    """Python does not convert an int of more than 4300 digits to text."""
    filled.state("a", balance=10**5000)
    shown = {"balance": "(an int of 16,610 bits)", "notes": []}
    assert served.ask("/api/partitions/keys/a").json["states"][0]["state"] == shown
    assert served.ask("/partitions/key?key=a").status == 200
    body = {"key": "a", "computation": pay.name}
    look = served.post("/api/partitions/key/state", {**body, "state": {"balance": 1}, "preview": True}).json
    assert (look["old"], look["new"]) == (shown, {"balance": 1, "notes": []})
    assert served.post("/api/partitions/key/forget", {**body, "digest": look["digest"]}).status == 200
    assert filled.group.audit.last(1)[0].detail["old"] == shown


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"state": {"balance": "x"}}, 400, "$.balance"),
        ({"state": {"blance": 1}}, 400, "blance"),
        ({"state": "{"}, 400, "not JSON"),
        ({"state": [1]}, 400, "object"),
        ({"computation": "unknown"}, 404, "unknown"),
        ({"keys": "a"}, 400, "keys"),
        ({"key": "!", "base64": True}, 400, "base64"),
    ],
)
def test_a_bad_request_is_explained(
    served: Served, filled: Filled, change: dict[str, object], status: int, text: str
) -> None:
    body = {"key": "a", "computation": pay.name, "state": {"balance": 9}, "digest": "", **change}
    answer = served.post("/api/partitions/key/state", body)
    assert answer.status == status and text in answer.json["error"]


def test_a_key_that_is_not_text(served: Served, filled: Filled) -> None:
    raw = b"\xff\x00"
    body = {"key": base64.b64encode(raw).decode(), "base64": True, "computation": pay.name, "state": {"balance": 1}}
    assert served.post("/api/partitions/key/state", {**body, "digest": ""}).status == 200
    assert pay.state(raw).balance == 1


def test_one_dead_letter_a_group_and_all(served: Served, filled: Filled) -> None:
    ids = [filled.add_dead_letter("1", number) for number in range(4)]
    other = filled.add_dead_letter("2", 1, reason="unknown-task")
    act = "/api/partitions/dead-letters/"
    assert served.post(act + "retry", {"ids": [ids[0], "none such"]}).json == {
        "retried": 1,
        "in_place": 0,
        "at_the_end": 1,
        "message": "1 put back at the end of their queues",
    }
    assert filled.client.llen("partition.1") == 1
    group = served.ask("/api/partitions/dead-letters").json["groups"][0]
    assert served.post(act + "discard", {"fingerprint": group["fingerprint"]}).json["discarded"] == 3
    assert [dead_letter.id for dead_letter in filled.group.dead_letters.all()] == [other]
    for wrong in ({}, {"all": True, "ids": [other]}, {"all": True, "text": "x"}):
        assert served.post(act + "discard", wrong).status == 400
    assert served.post(act + "discard", {"all": True}).json["discarded"] == 1
    assert filled.who()[0] == ("me", "dead-letters discard")


def test_dead_letters_are_put_back_in_order_of_time(served: Served, filled: Filled) -> None:
    for number in range(40):
        filled.add_dead_letter("1", number, raw=b"%d" % number)
    assert served.post("/api/partitions/dead-letters/retry", {"all": True}).json["retried"] == 40
    assert filled.client.lrange("partition.1", 0, -1)[::-1] == [b"%d" % number for number in range(40)]


def test_flowers_redis_user_may_only_read(served: Served, filled: Filled) -> None:
    filled.client.execute_command("ACL SETUSER default -xadd -evalsha -eval -script")
    try:
        answer = served.post("/api/partitions/1/pause")
        assert answer.status == 403 and "Redis user" in answer.json["error"]
    finally:
        filled.client.execute_command("ACL SETUSER default +@all")


def test_with_oauth_an_action_needs_flowers_token_and_is_audited_under_the_address(
    shop: Celery, filled: Filled
) -> None:
    with Served(shop, login=None, basic_auth=None, auth=".*@example.com") as served:
        user = create_signed_value("of the tests", "user", "ann@example.com").decode()
        page = served.ask("/partition/1", Cookie=f"user={user}")
        assert page.status == 200
        token = page.headers["Set-Cookie"].partition("_xsrf=")[2].partition(";")[0]
        act = "/api/partitions/1/pause"
        assert served.post(act, Cookie=f"user={user}").status == 403
        assert served.post(act, Cookie=f"user={user}; _xsrf={token}").status == 403
        assert served.post(act, Cookie=f"user={user}; _xsrf={token}", X_XSRFToken=token).status == 200
        assert filled.who() == [("ann@example.com", "pause")]
