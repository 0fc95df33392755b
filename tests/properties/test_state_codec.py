"""State bytes: what was written can be read. What was moved, changed, or signed with another key is never unpickled."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import StateError
from celery_partitions.store.codec import StateCodec, StoredMeta
from celery_partitions.store.record import SIGNED, TAG_BYTES, UNSIGNED
from tests.model.foreign import Foreign


def computation(name: str) -> Computation:
    return declare(lambda message, state: None, name=name, state=dict, key=str)


COUNT = computation("count")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
states = st.dictionaries(st.text(), values, max_size=4)
keys = st.text(max_size=30) | st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
names = st.text(min_size=1, max_size=20).filter(lambda name: name.strip() and name.isprintable())
secrets = st.binary(min_size=1, max_size=100)


@given(states, keys, st.lists(secrets, max_size=3))
def test_a_state_is_read_as_it_was_written(state: dict[str, Any], key: str, signing_keys: list[bytes]) -> None:
    codec = StateCodec(tuple(signing_keys))
    stored = codec.dump(COUNT, key, state)
    assert codec.load(COUNT, key, stored) == state
    assert stored[:1] == (SIGNED if signing_keys else UNSIGNED)
    assert stored.endswith(pickle.dumps(state, 5))


@given(states, keys, st.lists(secrets, min_size=2, max_size=4, unique=True))
def test_any_of_the_keys_verifies_and_only_the_first_signs(
    state: dict[str, Any], key: str, signing_keys: list[bytes]
) -> None:
    rotated = StateCodec(tuple(signing_keys))
    for secret in signing_keys:
        assert rotated.load(COUNT, key, StateCodec((secret,)).dump(COUNT, key, state)) == state
    assert StateCodec((signing_keys[0],)).load(COUNT, key, rotated.dump(COUNT, key, state)) == state


class Bomb:
    """The test fails if this is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a state was unpickled before its signature was found right",))


def forged(codec: StateCodec, at: Computation, key: str) -> bytes:
    """What an attacker with the codec's keys can write. `dump` itself never writes what cannot be read back."""
    return codec.seal(at.name, key, pickle.dumps(Bomb(), 5))


def refused(codec: StateCodec, at: Computation, key: str, stored: bytes, says: str) -> None:
    with pytest.raises(StateError, match=says):
        codec.load(at, key, stored)


@given(keys, keys, names, names, secrets)
def test_a_signed_state_cannot_be_moved_to_another_key_or_computation(
    key: str, other_key: str, name: str, other_name: str, secret: bytes
) -> None:
    assume((name, key) != (other_name, other_key))
    codec = StateCodec((secret,))
    stored = forged(codec, computation(name), key)
    refused(codec, computation(other_name), other_key, stored, "signature is wrong")


@given(st.data(), secrets)
def test_a_name_and_a_key_cannot_exchange_characters(data: st.DataObject, secret: bytes) -> None:
    whole = data.draw(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=2, max_size=20))
    first, second = sorted(data.draw(st.lists(st.integers(1, len(whole)), min_size=2, max_size=2, unique=True)))
    assume(whole[:first].strip())
    stored = forged(StateCodec((secret,)), computation(whole[:first]), whole[first:])
    refused(StateCodec((secret,)), computation(whole[:second]), whole[second:], stored, "signature is wrong")


@given(keys, secrets, st.data())
def test_a_signed_state_with_any_bit_changed_is_not_unpickled(key: str, secret: bytes, data: st.DataObject) -> None:
    codec = StateCodec((secret,))
    stored = bytearray(forged(codec, COUNT, key))
    bit = data.draw(st.integers(8, len(stored) * 8 - 1))
    stored[bit // 8] ^= 1 << bit % 8
    refused(codec, COUNT, key, bytes(stored), "signature is wrong")


@given(keys, st.lists(secrets, min_size=2, max_size=2, unique=True))
def test_an_unsigned_or_foreign_or_unverifiable_state_is_not_unpickled(key: str, both: list[bytes]) -> None:
    ours, theirs = (StateCodec((secret,)) for secret in both)
    refused(ours, COUNT, key, forged(theirs, COUNT, key), "signature is wrong")
    refused(ours, COUNT, key, forged(StateCodec(), COUNT, key), "is not signed")
    refused(StateCodec(), COUNT, key, forged(ours, COUNT, key), "PARTITIONS_STATE_SIGNING_KEY is not set")


@given(st.binary(max_size=40), keys, secrets)
def test_any_other_bytes_are_a_state_error(rubbish: bytes, key: str, secret: bytes) -> None:
    signed = StateCodec((secret,))
    refused(signed, COUNT, key, rubbish, "the state")
    refused(signed, COUNT, key, SIGNED + rubbish, "signature is wrong")
    if rubbish[:1] not in (UNSIGNED, SIGNED, b"\x81", b"\x82", b"\x83", b"\x84"):
        refused(StateCodec(), COUNT, key, rubbish, "other than celery-partitions wrote it|it is JSON")


@given(states, secrets)
def test_a_truncated_state_is_a_state_error_and_nothing_else(state: dict[str, Any], secret: bytes) -> None:
    codec = StateCodec((secret,))
    stored = codec.dump(COUNT, "k", state)
    for length in range(min(len(stored), TAG_BYTES + 8)):
        refused(codec, COUNT, "k", stored[:length], "the state")
    plain = StateCodec().dump(COUNT, "k", state)
    for length in range(len(plain)):
        refused(StateCodec(), COUNT, "k", plain[:length], "state")


@given(st.lists(st.integers()) | st.integers() | st.text())
def test_a_state_of_another_class_than_declared_is_a_state_error(value: object) -> None:
    refused(StateCodec(), COUNT, "k", StateCodec().dump(COUNT, "k", value), " is declared")


class Price:
    price = 0.0


def test_a_script_reads_states_of_its_own_module_that_a_worker_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    # `python stocks.py` knows the class as __main__.Price; the worker imported it as stocks.Price.
    in_script = type("Price", (), {"__module__": "__main__", "price": 0.0})
    monkeypatch.setattr("__main__.Price", in_script, raising=False)
    worker = declare(lambda message, state: None, name="count", state=Price, key=str)
    script = declare(lambda message, state: None, name="count", state=in_script, key=str)
    state = Price()
    state.price = 1.5
    assert StateCodec().load(script, "k", StateCodec().dump(worker, "k", state)).price == 1.5


def test_a_state_that_cannot_be_read_back_is_not_written() -> None:
    """The message that changed the state in this way fails, and the stored state is unchanged."""
    codec = StateCodec()
    with pytest.raises(StateError, match=r"names tests\.model\.foreign\.Foreign.*PARTITIONS_STATE_MODULES=tests\.model\.foreign$"):
        codec.dump(COUNT, "k", {"seen": Foreign()})
    priced = declare(lambda message, state: None, name="priced", state=Price, key=str)
    state = Price()
    assert codec.load(priced, "k", codec.dump(priced, "k", state)).price == 0.0
    state.price = Foreign()  # type: ignore[assignment]
    with pytest.raises(StateError, match="PARTITIONS_STATE_MODULES"):
        codec.dump(priced, "k", state)
    allowing = StateCodec((), ("tests.model.foreign",))
    assert type(allowing.load(priced, "k", allowing.dump(priced, "k", state)).price) is Foreign


@given(keys, st.lists(secrets, min_size=1, max_size=2))
def test_a_right_signature_does_not_make_a_name_allowed(key: str, signing_keys: list[bytes]) -> None:
    codec = StateCodec(tuple(signing_keys))
    refused(codec, COUNT, key, forged(codec, COUNT, key), "it names _pytest")


@given(states, keys, st.lists(secrets, max_size=2))
def test_what_is_visible_without_a_key(state: dict[str, Any], key: str, signing_keys: list[bytes]) -> None:
    codec = StateCodec(tuple(signing_keys))
    stored = codec.dump(COUNT, key, state)
    form = "signed" if signing_keys else "unsigned"
    assert StateCodec().meta("count", key, stored) == StoredMeta(len(stored), form, None)
    assert codec.meta("count", key, stored) == StoredMeta(len(stored), form, True if signing_keys else None)
    assert codec.meta("count", key + "x", stored).verified is (False if signing_keys else None)
    assert codec.meta("count", key, b"").form == "unknown"
