"""Operators set and delete states: in one script with the audit, and never silently overwritten."""

from __future__ import annotations

from itertools import count

import pytest
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.state_editor import StateEditor
from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import partition_of
from celery_partitions.model.topology import Topology
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.states import StateReader
from tests.store.declared import commit_of, computation, fill, queued, total
from tests.store.test_states import KEYS

TOTALS = computation()
#: A key in the partition whose lease the fixture holds.
KEY = next(f"k{number}" for number in count() if partition_of(f"k{number}", 4) == 2)
SECRET = b"the key of this group"


@pytest.fixture
def editor(client: redis.Redis, names: Names) -> StateEditor:
    return StateEditor(StateReader(client, names, StateCodec(), Topology(0, 4)), Audit(client, names))


def signing(editor: StateEditor) -> StateEditor:
    states = editor.states
    return StateEditor(StateReader(states.client, states.names, StateCodec((SECRET,)), Topology(0, 4)), editor.audit)


def edit_version(editor: StateEditor, key: str = KEY) -> int:
    meta = editor.states.names.meta(str(partition_of(key, 4)))
    return int(editor.states.client.hget(meta, "edit_version") or 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [*KEYS, "a\nb"])
def test_a_state_is_set_changed_and_deleted_for_any_key(editor: StateEditor, key: str) -> None:
    assert editor.set(editor.see(TOTALS, key), total(1), by="me") == "ok"
    assert editor.see(TOTALS, key).state.amount == 1
    assert editor.set(editor.see(TOTALS, key), total(2), by="me") == "ok"
    assert editor.states.get(TOTALS, key).amount == 2
    assert editor.delete(editor.see(TOTALS, key), by="me") == "ok"
    assert editor.see(TOTALS, key).stored is None
    assert edit_version(editor, key) == 3


def test_the_audit_has_who_when_what_old_and_new(editor: StateEditor) -> None:
    editor.set(editor.see(TOTALS, KEY), total(1), by="me@here")
    editor.delete(editor.see(TOTALS, KEY), by="you@there")
    deleted, was_set = editor.audit.last(10)
    seconds, _ = editor.states.client.time()
    assert (was_set.who, was_set.what, deleted.who, deleted.what) == ("me@here", "state set", "you@there", "state delete")
    assert was_set.detail == {
        "computation": "totals",
        "key": KEY,
        "partition": 2,
        "old": None,
        "new": {"amount": 1, "names": []},
    }
    assert deleted.detail["old"] == {"amount": 1, "names": []}
    assert 0 <= seconds + 1 - was_set.at < 60


def test_a_state_that_changed_since_it_was_seen_is_left_unchanged(editor: StateEditor) -> None:
    seen = editor.see(TOTALS, KEY)
    editor.set(seen, total(1), by="other")
    before = edit_version(editor)
    assert editor.set(seen, total(2), by="me") == "changed"
    assert editor.delete(seen, by="me") == "changed"
    assert (editor.states.get(TOTALS, KEY).amount, edit_version(editor)) == (1, before)
    assert [record.who for record in editor.audit.last(10)] == ["other"]


def test_a_commit_based_on_the_old_state_is_refused(
    editor: StateEditor, store: CommitStore, lease: Lease
) -> None:
    fill(store, "partition.2", [b"m0"])
    known = store.peek(lease).edit_version
    editor.set(editor.see(TOTALS, KEY), total(5), by="me")
    write = [["HSET", editor.states.names.states("2", "totals"), KEY, b"old"]]
    assert store.send(commit_of(lease, [b"m0"], edit_version=known, commands=write)).status == "stale"
    assert editor.states.get(TOTALS, KEY).amount == 5
    assert queued(store, "partition.2") == [b"m0"]


def test_workers_are_notified_immediately(editor: StateEditor, client: redis.Redis, names: Names) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as changes:
        changes.subscribe(names.changed)
        changes.get_message(timeout=60)
        editor.set(editor.see(TOTALS, KEY), total(1), by="me")
        assert changes.get_message(timeout=60) is not None
        editor.states.forget(TOTALS, KEY)
        assert changes.get_message(timeout=60) is not None


def test_an_unreadable_state_can_be_replaced_and_deleted(editor: StateEditor, client: redis.Redis) -> None:
    for act in (lambda seen: editor.set(seen, total(1), by="me"), lambda seen: editor.delete(seen, by="me")):
        client.hset(editor.states.names.states("2", "totals"), KEY, b"\x09nonsense")
        seen = editor.see(TOTALS, KEY)
        assert (seen.state, "begins with the byte 0x09" in seen.plain) == (None, True)
        assert act(seen) == "ok"
        assert "begins with the byte 0x09" in editor.audit.last(1)[0].detail["old"]


def test_a_signed_state_is_set_signed_and_never_by_a_process_without_the_key(editor: StateEditor) -> None:
    safe = signing(editor)
    assert safe.set(safe.see(TOTALS, KEY), total(1), by="me") == "ok"
    unsafe = editor.see(TOTALS, KEY)
    assert (unsafe.state, "not unpickled" in unsafe.error) == (None, True)
    with pytest.raises(StateError, match="PARTITIONS_STATE_SIGNING_KEY is not set"):
        editor.set(unsafe, total(2), by="me")
    assert safe.see(TOTALS, KEY).state.amount == 1


def test_nothing_is_done_if_the_audit_cannot_be_written(editor: StateEditor, client: redis.Redis) -> None:
    client.set(editor.states.names.audit, "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        editor.set(editor.see(TOTALS, KEY), total(1), by="me")
    assert (editor.see(TOTALS, KEY).stored, edit_version(editor)) == (None, 0)


def test_a_huge_value_is_cut_in_the_audit_and_the_audit_is_bounded(
    editor: StateEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_partitions.admin.audit.MAX_RECORDS", 100)
    huge = total(1)
    huge.names = ["x" * 100_000]
    editor.set(editor.see(TOTALS, KEY), huge, by="me")
    assert len(editor.audit.last(1)[0].detail["new"]) < 30_000
    for number in range(400):
        editor.set(editor.see(TOTALS, KEY), total(number), by="me")
    assert len(editor.audit.last(1000)) < 300


def test_a_foreign_record_is_shown_with_the_fields_it_has(editor: StateEditor, client: redis.Redis) -> None:
    client.xadd(editor.states.names.audit, {"who": b"\xff", "detail": "no json"})
    (record,) = editor.audit.last(5)
    assert (record.who, record.what, record.detail) == ("\\xff", "", {})
