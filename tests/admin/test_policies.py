"""Operators' changes of failure policies: workers read them with their leases, and they are audited."""

from __future__ import annotations

import pytest
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.policies import Policies
from celery_partitions.model.policy import PolicyChange
from celery_partitions.store.leases import balance
from celery_partitions.store.names import Names


@pytest.fixture
def policies(client: redis.Redis, names: Names) -> Policies:
    return Policies(client, names, Audit(client, names))


def test_workers_read_a_change_with_their_leases_until_it_is_reset(policies: Policies) -> None:
    change = PolicyChange(attempts=5, exhausted="hold")
    policies.change("update", change, by="me")
    assert policies.get("update") == change
    share = balance(policies.client, policies.names, "one/1", lease_seconds=60, partitions=4)
    assert share.policies == {"update": b'{"attempts":5,"exhausted":"hold"}'}
    policies.change("update", None, by="me")
    assert policies.get("update") == PolicyChange()
    assert balance(policies.client, policies.names, "one/1", lease_seconds=60, partitions=4).policies == {}


def test_the_audit_has_old_and_new(policies: Policies) -> None:
    policies.change("update", PolicyChange(attempts=5), by="me")
    policies.change("update", None, by="you")
    reset, changed = policies.audit.last(9)
    assert changed.detail == {"computation": "update", "old": {}, "new": {"attempts": 5}}
    assert reset.detail == {"computation": "update", "old": {"attempts": 5}, "new": None}


def test_workers_are_notified_immediately(policies: Policies) -> None:
    with policies.client.pubsub(ignore_subscribe_messages=True) as changes:
        changes.subscribe(policies.names.changed)
        changes.get_message(timeout=60)
        policies.change("update", PolicyChange(attempts=5), by="me")
        assert changes.get_message(timeout=60) is not None


@pytest.mark.parametrize("text", ["", "{", '{"attempts": "x"}', '{"nonsense": 1}', b"\xff"])
def test_an_unreadable_change_is_ignored(policies: Policies, text: str | bytes) -> None:
    policies.client.hset(policies.names.policies, "update", text)  # type: ignore[arg-type]
    assert policies.get("update") == PolicyChange()
