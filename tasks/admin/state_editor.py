"""A key's state, set or deleted by an operator: never silently overwritten by a worker that holds the old one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from celery_partitions.admin.audit import Audit, shortened
from celery_partitions.admin.state_json import plain_fields
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import key_bytes, normalize_key, partition_of
from celery_partitions.store.record import UNSIGNED
from celery_partitions.store.scripts import digest_of, script
from celery_partitions.store.states import StateReader

Answer = Literal["ok", "changed"]


@dataclass(frozen=True, slots=True)
class SeenState:
    """A key's state as an operator sees it before changing it."""

    computation: Computation
    key: str
    partition: int
    #: None: there is none, or it can't be read.
    state: Any | None
    #: Its bytes; None: there is none.
    stored: bytes | None
    #: Why it can't be read; "" when it can.
    error: str = ""

    @property
    def plain(self) -> Any:
        """For people and for the audit: its fields, or why they can't be had; None when there is no state."""
        if self.error:
            return f"unreadable: {self.error}"
        return None if self.state is None else plain_fields(self.state)

    def to_merge_with(self) -> Any | None:
        """The state whose fields are to stay as they are; None when there is no state.

        Raises `StateError` when it can't be read: nobody knows what would have to stay.
        """
        if self.error:
            raise StateError(f"its fields can't be kept, and nothing was written, for it can't be read: {self.error}")
        return self.state


class StateEditor:
    """Set and delete states. Every change is audited in the script that makes it."""

    def __init__(self, states: StateReader, audit: Audit) -> None:
        self.states, self.audit = states, audit

    def see(self, computation: Computation, key: object) -> SeenState:
        """The state as last committed; one that can't be read is seen too, so that it can be replaced."""
        states, spelled = self.states, normalize_key(key)
        partition = partition_of(spelled, states.partitions)
        name = states.names.states(str(partition), computation.name)
        stored = cast("bytes | None", states.client.hget(name, cast(str, key_bytes(spelled))))
        if stored is None:
            return SeenState(computation, spelled, partition, None, None)
        try:
            return SeenState(computation, spelled, partition, states.codec.load(computation, spelled, stored), stored)
        except StateError as error:
            return SeenState(computation, spelled, partition, None, stored, str(error))

    def set(self, seen: SeenState, state: Any, *, by: str) -> Answer:
        """Put `state` where `seen` was. `changed`: there is another one meanwhile, and nothing was written.

        Raises `StateError` when the group's states are signed and this process has no key to sign with.
        """
        data = self.states.codec.dump(seen.computation, seen.key, state)
        before = None if seen.stored is None else self.states.codec.meta(seen.computation.name, seen.key, seen.stored)
        if data[:1] == UNSIGNED and before is not None and before.form == "signed":
            raise StateError(
                "the state is signed, and PARTITIONS_STATE_SIGNING_KEY is not set: no worker would take an unsigned one"
            )
        return self._edit(seen, "set", data, {"new": shortened(plain_fields(state))}, by)

    def delete(self, seen: SeenState, *, by: str) -> Answer:
        """Delete the state; the key's next message finds the zero state. `changed`: as for `set`."""
        return self._edit(seen, "delete", b"", {}, by)

    def _edit(self, seen: SeenState, action: str, data: bytes, more: dict[str, Any], by: str) -> Answer:
        names, partition = self.states.names, str(seen.partition)
        field = key_bytes(seen.key)
        detail = {
            "computation": seen.computation.name,
            "key": field.decode("utf-8", "backslashreplace"),
            "partition": seen.partition,
            "old": shortened(seen.plain),
            **more,
        }
        answer: bytes = script("edit_state").run(
            self.states.client,
            [names.states(partition, seen.computation.name), names.meta(partition), names.audit],
            [
                field,
                "" if seen.stored is None else digest_of(seen.stored),
                action,
                data,
                names.changed,
                *self.audit.words(by, f"state {action}", detail),
            ],
        )
        return cast(Answer, answer.decode())
