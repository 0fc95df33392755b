"""Forged, moved, truncated and unsigned states on a live worker: only messages of their own keys are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_partitions import partition_of
from celery_partitions.model.errors import StateError
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.record import SIGNED, TAG_BYTES, UNSIGNED
from tests.fundamentals.application import Sequence, Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until

MakeLive = Callable[..., LiveGroup]

OLD, NEW, STOLEN = "the old key of 16 bytes", "the new key of 16 bytes", "the key of an attacker"
COMPUTATION = record.computation


class Trap:
    """Creates a file if it is unpickled by code that calls what a pickle names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def stored(live: LiveGroup, key: str) -> bytes | None:
    found: bytes | None = live.client.hget(place(live, key), key)  # type: ignore[assignment]
    return found


def put(live: LiveGroup, key: str, raw: bytes) -> None:
    live.client.hset(place(live, key), key, raw)  # type: ignore[arg-type]


def place(live: LiveGroup, key: str) -> str:
    return live.names.states(str(partition_of(key, live.settings.partitions)), record.name)


def of(number: int) -> Sequence:
    state = Sequence()
    state.numbers = [number]
    return state


def codec(*secrets: str, group: str = "partition") -> StateCodec:
    return StateCodec(tuple(secret.encode() for secret in secrets), group=group)


@pytest.mark.parametrize("secret", [None, OLD])
def test_only_the_messages_of_such_keys_are_refused(
    make_live: MakeLive, redis_url: str, tmp_path: Path, secret: str | None
) -> None:
    live = make_live(redis_url, PARTITIONS=1, **({} if secret is None else {"PARTITIONS_STATE_SIGNING_KEY": secret}))
    ours = codec(*([] if secret is None else [secret]))
    trap = tmp_path / "sprung"
    springing = pickle.dumps(Trap(trap), 5)
    good = ours.dump(COMPUTATION, "good", of(0))
    bad = {
        "names what it may not, signed or not": ours.seal(record.name, "names what it may not, signed or not", springing),
        "cut": good[:-3],
        "empty": b"",
        "of another format": b"\x07" + good[1:],
        "a bare pickle": springing,
        "signed by another": codec(STOLEN).dump(COMPUTATION, "signed by another", of(0)),
    }
    if secret is not None:
        bad["moved"] = good
        bad["of another group"] = codec(secret, group="orders").dump(COMPUTATION, "of another group", of(0))
        bad["unsigned"] = UNSIGNED + springing
        bad["signed for another key"] = SIGNED + good[1 : 1 + TAG_BYTES] + springing
    for key, raw in {"good": good, **bad}.items():
        put(live, key, raw)
    worker = live.start_workers(1)[0]
    live.send(record, [Step(key, number) for number in (1, 2) for key in [*bad, "good", "new"]])
    live.wait_drained()
    assert live.numbers_of(record, "good") == [0, 1, 2]
    assert live.numbers_of(record, "new") == [1, 2]
    dead_letters = live.dead_letters()
    assert sorted(dead_letter.key or "" for dead_letter in dead_letters) == sorted([*bad, *bad])
    assert {dead_letter.reason for dead_letter in dead_letters} == {"unreadable-state"}
    assert {key: stored(live, key) for key in bad} == bad
    assert worker.running and not trap.exists()


def test_keys_are_rotated_while_workers_run(make_live: MakeLive, redis_url: str) -> None:
    """First the old key, then new and old, then only the new one: no message is refused, and rewritten states have the new signature."""
    group = {"PARTITIONS": 2, "PARTITIONS_LEASE_SECONDS": 2}

    def serve(secrets: str, number: int, keys: list[str]) -> LiveGroup:
        live = make_live(redis_url, PARTITIONS_STATE_SIGNING_KEY=secrets, **group)
        worker = live.start_workers(1)[0]
        live.send(record, [Step(key, number) for key in keys])
        live.wait_drained()
        worker.terminate()
        assert worker.wait() == 0
        return live

    serve(OLD, 1, ["often", "seldom"])
    both = serve(f"{NEW},{OLD}", 2, ["often"])
    assert both.numbers(record) == {"often": [1, 2], "seldom": [1]}
    assert codec(NEW).meta(record.name, "often", stored(both, "often") or b"").verified
    assert not codec(NEW).meta(record.name, "seldom", stored(both, "seldom") or b"").verified

    new = serve(NEW, 3, ["often", "seldom"])
    assert new.numbers_of(record, "often") == [1, 2, 3]
    with pytest.raises(StateError, match="signature is wrong"):
        new.numbers_of(record, "seldom")
    (dead_letter,) = new.dead_letters()
    assert (dead_letter.key, dead_letter.reason) == ("seldom", "unreadable-state")

    # With the old key again, the dead letter can be retried and is applied.
    assert new.group.dead_letters.retry([dead_letter]) == 1
    last = serve(f"{NEW},{OLD}", 4, ["seldom"])
    assert last.numbers(record) == {"often": [1, 2, 3], "seldom": [1, 3, 4]}
    assert codec(NEW).meta(record.name, "seldom", stored(last, "seldom") or b"").verified


def test_unsigned_states_from_before_a_key_was_set_are_not_unpickled(make_live: MakeLive, redis_url: str) -> None:
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_STATE_SIGNING_KEY=OLD)
    put(live, "key", codec().dump(COMPUTATION, "key", of(0)))
    live.start_workers(1)
    live.send(record, [Step("key", 1)])
    dead_letter = wait_until(lambda: next(iter(live.dead_letters()), None))
    assert "is not signed, but PARTITIONS_STATE_SIGNING_KEY is set" in dead_letter.error
