"""Operators' changes of failure policies while workers run. Each is a JSON `PolicyChange`; workers read it with their leases."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.model.computation import Computation
from celery_partitions.model.policy import PolicyChange, RetryPolicy, effective_policy
from celery_partitions.model.rate_limit import RateLimit, changed_limit
from celery_partitions.store.names import Names
from celery_partitions_config.settings import Settings


class Policies:
    """The changed policies of a group, by computation name."""

    def __init__(self, client: redis.Redis, names: Names, audit: Audit) -> None:
        self.client, self.names, self.audit = client, names, audit

    def get(self, computation: str) -> PolicyChange:
        """The change of a computation's policy; an empty change if there is none or it cannot be read."""
        return _read(cast("bytes | None", self.client.hget(self.names.policies, computation)))

    def all(self) -> dict[str, PolicyChange]:
        """Every changed policy that can be read."""
        rows = cast(dict[bytes, bytes], self.client.hgetall(self.names.policies))
        return {name.decode("utf-8", "replace"): _read(text) for name, text in rows.items()}

    def change(self, computation: str, change: PolicyChange | None, *, by: str) -> None:
        """Replace the earlier change. None: restore the declared policy. Workers follow it immediately."""
        detail: dict[str, Any] = {
            "computation": computation,
            "old": msgspec.to_builtins(self.get(computation)),
            "new": None if change is None else msgspec.to_builtins(change),
        }
        with self.client.pipeline(transaction=True) as pipe:
            self.audit.add(pipe, by, "policy", detail)
            if change is None:
                pipe.hdel(self.names.policies, computation)
            else:
                pipe.hset(self.names.policies, computation, cast(str, msgspec.json.encode(change)))
            pipe.publish(self.names.changed, "")
            pipe.execute()


def _read(text: bytes | None) -> PolicyChange:
    try:
        return PolicyChange() if text is None else msgspec.json.decode(text, type=PolicyChange)
    except msgspec.DecodeError:
        return PolicyChange()


def limit_in_force(computation: Computation, change: PolicyChange) -> RateLimit | None:
    """A computation's rate limit with an operator's change. None: it has none."""
    try:
        return None if computation.rate_limit is None else changed_limit(computation.rate_limit, change.rate_limit, change.burst)
    except ValueError:  # not written by us
        return computation.rate_limit


def default_policy(settings: Settings) -> RetryPolicy:
    """The policy of a computation that declares none."""
    return RetryPolicy(
        attempts=settings.retry_attempts,
        backoff_seconds=settings.retry_backoff_seconds,
        longest_backoff_seconds=settings.retry_longest_backoff_seconds,
        exhausted=settings.retry_exhausted,
    )


def declared_policy(settings: Settings, computation: Computation) -> RetryPolicy:
    """A computation's policy without an operator's change."""
    return effective_policy(default_policy(settings), computation.on_error, None)
