"""Reading states for a batch and from outside, and forgetting them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import redis

from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import partition_of
from celery_partitions.model.outcome import Slot, Unreadable
from celery_partitions.model.topology import Topology
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.states import StateReader, load_slots
from tests.store.declared import Total, commit_of, computation, fill, total

TOTALS = computation()
#: Text, bytes that are not UTF-8, the empty key, and the separator of key names.
KEYS = ["a", "b", "c", "d", "é", "\udcff", "", "7", "a:b"]


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


class CannotBeCreated:
    """Objects could be created when it was declared, and cannot be now."""

    broken = False

    def __init__(self) -> None:
        if self.broken:
            raise RuntimeError("no more")


@pytest.fixture
def reader(client: redis.Redis, names: Names) -> StateReader:
    return StateReader(client, names, StateCodec(), Topology(0, 4))


def put(reader: StateReader, key: str, state: object, codec: StateCodec | None = None, name: str = "totals") -> None:
    """Store a state where a worker would."""
    partition = str(partition_of(key, reader.topology.partitions))
    field = key.encode("utf-8", "surrogateescape")
    stored = (codec or reader.codec).seal(TOTALS.name, key, pickle.dumps(state, 5))
    reader.client.hset(reader.names.states(partition, name), field, stored)  # type: ignore[arg-type]


def test_a_state_is_read_by_key_whatever_the_keys_type(reader: StateReader) -> None:
    for number, key in enumerate(KEYS):
        put(reader, key, total(number))
    for number, key in enumerate(KEYS):
        assert reader.get(TOTALS, key).amount == number
    assert reader.get(TOTALS, 7).amount == KEYS.index("7")
    assert reader.get(TOTALS, b"\xff").amount == KEYS.index("\udcff")


def test_a_key_never_seen_has_no_state(reader: StateReader) -> None:
    assert reader.get(TOTALS, "unknown") is None
    assert reader.get_many(TOTALS, ["unknown"]) == {}


def test_each_read_returns_a_copy(reader: StateReader) -> None:
    put(reader, "a", total(1))
    reader.get(TOTALS, "a").names.append("changed")
    assert reader.get(TOTALS, "a").names == []
    assert Total.names == []


def test_more_states_than_a_page_are_read_from_any_iterable(reader: StateReader) -> None:
    for number in range(2500):
        put(reader, f"k{number}", total(number))
    found = reader.get_many(TOTALS, (f"k{number}" for number in range(3000)))
    assert {key: state.amount for key, state in found.items()} == {f"k{n}": n for n in range(2500)}


def test_keys_of_all_partitions_are_scanned_once_each(reader: StateReader) -> None:
    expected = [f"k{number}" for number in range(2500)] + KEYS
    for key in expected:
        put(reader, key, total(1))
    put(reader, "other", total(1), name="other")
    assert sorted(reader.keys("totals")) == sorted(expected)


def test_keys_are_returned_while_the_scan_continues(reader: StateReader) -> None:
    for number in range(2500):
        put(reader, f"k{number}", total(number))
    found = reader.keys("totals")
    assert next(found)
    reader.client.flushdb()
    assert len(list(found)) < 2500


def test_forget_deletes_the_state_and_raises_the_partitions_edit_version(reader: StateReader) -> None:
    put(reader, "a", total(1))
    put(reader, "b", total(1))
    assert reader.forget(TOTALS, "a") is True
    assert (reader.get(TOTALS, "a"), reader.get(TOTALS, "b").amount) == (None, 1)
    meta = reader.names.meta(str(partition_of("a", 4)))
    assert reader.client.hgetall(meta) == {b"edit_version": b"1"}


def test_forget_of_a_key_without_a_state_returns_false_and_still_makes_workers_read_again(reader: StateReader) -> None:
    assert reader.forget(TOTALS, "a") is False
    assert reader.client.hget(reader.names.meta(str(partition_of("a", 4))), "edit_version") == b"1"


def test_a_worker_that_has_a_forgotten_state_in_memory_cannot_write_it_back(
    reader: StateReader, store: CommitStore, lease: Lease
) -> None:
    key = next(f"k{n}" for n in range(100) if partition_of(f"k{n}", 4) == 2)
    put(reader, key, total(1))
    fill(store, "partition.2", [b"m0"])
    known = store.peek(lease).edit_version
    reader.forget(TOTALS, key)
    write = [["HSET", reader.names.states("2", "totals"), key, b"old"]]
    assert store.send(commit_of(lease, [b"m0"], edit_version=known, commands=write)).status == "stale"
    assert reader.get(TOTALS, key) is None


def test_the_states_of_a_batch_are_loaded_with_an_initial_state_for_new_keys(
    reader: StateReader, client: redis.Redis, names: Names
) -> None:
    other = computation("other")
    put(reader, "c", total(5))
    partition = str(partition_of("c", 4))
    loaded = load_slots(
        client, names, StateCodec(), partition, {"totals": (TOTALS, ["c", "new", "newer"]), "other": (other, ["c"])}
    )
    slots = loaded["totals"]
    assert isinstance(slots["c"], Slot) and slots["c"].state.amount == 5
    assert slots["c"].stored == client.hget(names.states(partition, "totals"), "c")
    new, newer, foreign = slots["new"], slots["newer"], loaded["other"]["c"]
    assert isinstance(new, Slot) and isinstance(newer, Slot) and isinstance(foreign, Slot)
    assert (new.stored, new.state.amount, foreign.stored) == (None, 0, None)
    assert new.state.names is not newer.state.names


def test_an_unreadable_state_affects_only_its_own_key(
    reader: StateReader, client: redis.Redis, names: Names
) -> None:
    put(reader, "good", total(5))
    partition = str(partition_of("good", 4))
    client.hset(names.states(partition, "totals"), mapping={"empty": b"", "text": b"text", "cut": b"\x01\x80\x05"})
    keys = ["empty", "good", "text", "cut"]
    slots = load_slots(client, names, StateCodec(), partition, {"totals": (TOTALS, keys)})["totals"]
    assert [type(slots[key]) for key in keys] == [Unreadable, Slot, Unreadable, Unreadable]


def test_a_hash_of_another_type_makes_its_computations_states_unreadable_only(
    reader: StateReader, client: redis.Redis, names: Names
) -> None:
    client.set(names.states("0", "totals"), "text")
    wanted = {"totals": (TOTALS, ["a", "b"]), "other": (computation("other"), ["a"])}
    loaded = load_slots(client, names, StateCodec(), "0", wanted)
    assert [type(loaded["totals"][key]) for key in "ab"] == [Unreadable, Unreadable]
    assert "WRONGTYPE" in loaded["totals"]["a"].error  # type: ignore[union-attr]
    assert isinstance(loaded["other"]["a"], Slot)


def test_an_initial_state_that_cannot_be_created_affects_only_its_key(
    client: redis.Redis, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = computation(state=CannotBeCreated)
    monkeypatch.setattr(CannotBeCreated, "broken", True)
    slots = load_slots(client, names, StateCodec(), "0", {"totals": (made, ["a"])})
    assert slots["totals"]["a"] == Unreadable("the initial state could not be created: RuntimeError: no more")


@pytest.mark.parametrize("signed_by", [None, b"another key, 16 bytes"])
def test_nothing_is_unpickled_from_redis_unless_its_signature_is_right(
    reader: StateReader, client: redis.Redis, names: Names, tmp_path: Path, signed_by: bytes | None
) -> None:
    trap = tmp_path / "sprung"
    put(reader, "a", Trap(trap), StateCodec((signed_by,) if signed_by else ()))
    safe = StateReader(client, names, StateCodec((b"the key of this group",)), Topology(0, 4))
    with pytest.raises(StateError, match="not unpickled"):
        safe.get(TOTALS, "a")
    partition = str(partition_of("a", 4))
    slots = load_slots(client, names, safe.codec, partition, {"totals": (TOTALS, ["a"])})
    assert isinstance(slots["totals"]["a"], Unreadable)
    assert not trap.exists()


def test_a_state_of_a_class_of_the_same_name_elsewhere_says_that_it_moved_or_that_two_programs_meet(reader: StateReader) -> None:
    stored = pickle.dumps(Total(), 5).replace(b"tests.store.declared", b"tests_store_declared")
    reader.client.hset(reader.names.states(str(partition_of("a", 4)), "totals"), "a", reader.codec.seal("totals", "a", stored))
    with pytest.raises(StateError) as caught:
        reader.get(TOTALS, "a")
    assert 'declare it with @state(formerly="tests_store_declared.Total")' in str(caught.value)
    assert "another program uses the same Redis and computation name" in str(caught.value)


def test_a_signed_state_moved_to_another_key_in_redis_is_not_read(client: redis.Redis, names: Names) -> None:
    safe = StateReader(client, names, StateCodec((b"the key of this group",)), Topology(0, 1))
    put(safe, "a", total(9))
    assert safe.get(TOTALS, "a").amount == 9
    stored = client.hget(names.states("0", "totals"), "a")
    client.hset(names.states("0", "totals"), "b", stored)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="signature is wrong"):
        safe.get(TOTALS, "b")
