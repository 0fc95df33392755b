"""A group without workers, filled by hand in the way workers do."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import redis
from celery import Celery

from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.items import DeadLetterItem
from celery_partitions.model.keys import key_bytes, partition_of
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.timeline import KeyChange
from celery_partitions.runtime.group import Group
from celery_partitions.runtime.registry import installation_of
from celery_partitions.store.parked_keys import dump_parked
from tests.dashboard.declared import Account, pay
from tests.store.declared import commands_of_outcome


class Filled:
    """`client` is connected to the database of `app`'s group."""

    def __init__(self, app: Celery, client: redis.Redis) -> None:
        installation = installation_of(app)
        assert installation is not None
        self.app, self.client, self.installation = app, client, installation
        self.group: Group = installation.group
        self.names = self.group.names

    def partition(self, key: str) -> str:
        return str(partition_of(key, self.group.settings.partitions))

    def state(self, key: str, **fields: Any) -> None:
        self.stored(key, self.group.codec.dump(pay.computation, key, Account(**fields)))

    def stored(self, key: str, data: bytes, name: str = pay.name) -> None:
        self.client.hset(self.names.group_meta, f"computation:{name}", 1)
        self.client.hset(self.names.states(self.partition(key), name), key_bytes(key), data)  # type: ignore[arg-type]

    def park(self, key: str, error: str = "ValueError: no", *, since: float = 5.0) -> None:
        """Hold a key behind a failed message."""
        fact = ParkedKey(due=None, attempt=2, error=error, trace="the trace", message_id="m", task=pay.name, since=since)
        self.client.hset(self.names.parked(self.partition(key)), key_bytes(key), dump_parked(fact))  # type: ignore[arg-type]
        self.client.lpush(self.names.mailbox(self.partition(key), key), b'{"headers": {"task": "t", "id": "m"}}')  # type: ignore[arg-type]

    def add_dead_letter(self, partition: str, number: int, reason: str = "bad-key", raw: bytes = b"raw", **more: Any) -> str:
        more = {"error": f"error {number}", "trace": "the trace", **more}
        outcome = Outcome(dead=[(DeadLetterItem(raw, reason, **more), 1)])
        for command in commands_of_outcome(outcome, self.names, partition, number, 5.0):
            self.client.execute_command(*command)
        return f"{partition}-{number}-0"

    def change(self, key: str, change: KeyChange) -> None:
        """Put a change in front of the key's timeline."""
        name, field = self.names.timelines(self.partition(key)), cast(str, key_bytes(key))
        before = cast("bytes | None", self.client.hget(name, field)) or b""
        self.client.hset(name, field, msgspec.json.encode(change) + b"\n" + before)  # type: ignore[arg-type]

    def who(self) -> list[tuple[str, str]]:
        """The audit's records, newest first."""
        return [(record.who, record.what) for record in self.group.audit.last(10)]
