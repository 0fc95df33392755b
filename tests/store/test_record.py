"""The record around a pickle: format, header, signature. A signed record cannot be moved, and its header cannot be changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions import state_computation
from celery_partitions.model.errors import StateError
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.record import SIGNED, UNSIGNED, Kind, Signer, split

SECRETS = (b"the first", b"the second")
headers = st.none() | st.dictionaries(st.text(max_size=10), st.integers(-5, 2**40) | st.text(max_size=10) | st.binary(max_size=10))


def signer(secrets: tuple[bytes, ...] = SECRETS, kind: Kind = "state", group: str = "partition", name: str = "count") -> Signer:
    return Signer(secrets, kind, group, name)


@pytest.mark.parametrize("secrets", [(), SECRETS])
@given(headers, st.binary(max_size=50), st.booleans())
def test_a_sealed_record_can_be_opened(secrets: tuple[bytes, ...], header: dict[str, object] | None, payload: bytes, json: bool) -> None:
    record = split(signer(secrets).seal("key", payload, json=json, header=header))
    assert (record.payload, record.header) == (payload, header or {})
    assert signer(secrets).verifies("key", record) == bool(secrets)


def test_a_record_without_a_header_adds_a_byte_and_a_tag_to_its_payload() -> None:
    assert signer(()).seal("key", b"payload") == UNSIGNED + b"payload"
    stored = signer().seal("key", b"payload", header={})
    assert (stored[:1], len(stored)) == (SIGNED, 1 + 16 + len(b"payload"))


def test_the_signature_covers_everything_that_identifies_the_record() -> None:
    stored = split(signer().seal("key", b"payload", header={"version": 3}))
    others = [signer(kind="position"), signer(group="orders"), signer(name="other"), signer((b"another",))]
    assert not any(one.verifies("key", stored) for one in others)
    assert not signer().verifies("other", stored)
    assert signer().verifies("key", stored) and signer(SECRETS[::-1]).verifies("key", stored)


@given(st.data(), headers)
def test_no_bit_of_a_signed_record_can_be_changed(data: st.DataObject, header: dict[str, object] | None) -> None:
    stored = bytearray(signer().seal("key", b"payload", header=header))
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    stored[bit // 8] ^= 1 << bit % 8
    try:
        record = split(bytes(stored))
    except StateError:
        return
    assert record.form not in (SIGNED, b"\x04") or not signer().verifies("key", record)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_a_state_error(rubbish: bytes) -> None:
    try:
        record = split(rubbish)
        assert record.head + record.tag + record.payload == rubbish
        assert isinstance(record.header, dict)
    except StateError:
        pass


def test_the_header_of_a_state_is_kept_when_another_group_imports_it() -> None:
    stored = signer().seal("key", b"N.", header={"version": 3})
    moved = StateCodec(SECRETS, group="orders").moved("count", "key", stored, "partition")
    assert split(moved).header == {"version": 3}
    assert StateCodec(SECRETS, group="orders").verified("count", "key", moved) == b"N."


class Reached: ...


@state_computation(name="reached", state=Reached, key=str)
def reached(message: str, state: Reached) -> None: ...


@pytest.mark.parametrize("value", [[1, "a"], "\ud800", (1, 2)])
def test_a_position_is_signed_and_bound_to_its_group(value: object) -> None:
    ours, unsigned = StateCodec(SECRETS, group="partition"), StateCodec()
    source = reached.computation
    stored = ours.dump_position(source, value)
    assert ours.load_position(source, stored) == value
    with pytest.raises(StateError, match="the position's signature is wrong"):
        StateCodec(SECRETS, group="orders").load_position(source, stored)
    with pytest.raises(StateError, match="the position is not signed"):
        ours.load_position(source, unsigned.dump_position(source, value))
    assert unsigned.load_position(source, unsigned.dump_position(source, value)) == value
