"""Sets or deletes a key's state for an operator. A worker that has the old state in memory never overwrites the change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from celery_partitions.admin.audit import Audit, shortened
from celery_partitions.admin.state_json import plain_fields
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import key_bytes, normalize_key
from celery_partitions.store.record import UNSIGNED
from celery_partitions.store.scripts import digest_of, script
from celery_partitions.store.states import StateReader

Answer = Literal["ok", "changed"]


@dataclass(frozen=True, slots=True)
class SeenState:
    """A key's state as read before a change."""

    computation: Computation
    key: str
    partition: int
    #: None if there is no state, or it cannot be read.
    state: Any | None
    #: The stored bytes; None if there is no state.
    stored: bytes | None
    #: Why the state cannot be read; "" if it can.
    error: str = ""

    @property
    def plain(self) -> Any:
        """The fields, or why they cannot be read, for people and for the audit. None if there is no state."""
        if self.error:
            return f"unreadable: {self.error}"
        return None if self.state is None else plain_fields(self.state)

    def to_merge_with(self) -> Any | None:
        """The state whose fields a merge keeps; None if there is no state.

        Raises `StateError` if the state cannot be read, because the fields to keep are then unknown.
        """
        if self.error:
            raise StateError(f"cannot keep its fields, because the current state cannot be read; nothing was written. Replace the whole state: {self.error}")
        return self.state


class StateEditor:
    """Sets and deletes states. The script that makes a change also writes its audit record."""

    def __init__(self, states: StateReader, audit: Audit) -> None:
        self.states, self.audit = states, audit

    def see(self, computation: Computation, key: object) -> SeenState:
        """The state as last committed. A state that cannot be read is returned too, so that it can be replaced."""
        states, normalized = self.states, normalize_key(key)
        partition = states.topology.partition_of(normalized)
        stored = None
        for one in (*map(computation.before, computation.formerly), computation):
            name = states.names.states(str(partition), one.name)
            stored = cast("bytes | None", states.client.hget(name, cast(str, key_bytes(normalized))))
            if stored is not None:
                computation = one
                break
        if stored is None:
            return SeenState(computation, normalized, partition, None, None)
        try:
            return SeenState(computation, normalized, partition, states.codec.load(computation, normalized, stored), stored)
        except StateError as error:
            return SeenState(computation, normalized, partition, None, stored, str(error))

    def set(self, seen: SeenState, state: Any, *, by: str) -> Answer:
        """Replace `seen` with `state`. Returns `changed`, and writes nothing, if the state changed meanwhile.

        Raises `StateError` if the old state is signed and this process has no signing key.
        """
        timers = None if seen.stored is None or seen.error else self.states.codec.timers(seen.stored)
        data = self.states.codec.dump(seen.computation, seen.key, state, timers)
        before = None if seen.stored is None else self.states.codec.meta(seen.computation.name, seen.key, seen.stored, seen.computation.formerly)
        if data[:1] == UNSIGNED and before is not None and before.form == "signed":
            raise StateError(
                "the stored state is signed, but PARTITIONS_STATE_SIGNING_KEY is not set here. Workers would refuse an unsigned state"
            )
        state_class = seen.computation.state
        version = state_class.version if state_class is not None and state_class.is_versioned else 0
        return self._edit(seen, "set", data, {"new": shortened(plain_fields(state))}, by, version)

    def write(self, seen: SeenState, record: bytes, action: str, detail: dict[str, Any], *, by: str) -> Answer:
        """Replace the key's whole record, with a state of the same version. `changed`: as for `set`."""
        return self._edit(seen, "set", record, detail, by, what=action)

    def delete(self, seen: SeenState, *, by: str) -> Answer:
        """Delete the state; the key's next message starts from a new one. `changed`: as for `set`."""
        return self._edit(seen, "delete", b"", {}, by)

    def _edit(
        self, seen: SeenState, action: str, data: bytes, more: dict[str, Any], by: str, version: int = 0, what: str = ""
    ) -> Answer:
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
            [names.states(partition, seen.computation.name), names.meta(partition), names.audit_of(partition)],
            [
                field,
                "" if seen.stored is None else digest_of(seen.stored),
                action,
                data,
                names.changed,
                *self.audit.words(by, what or f"state {action}", detail),
                names.version_field(seen.computation.name),
                version,
            ],
        )
        return cast(Answer, answer.decode())
