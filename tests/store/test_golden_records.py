"""Records of each format, as they were written once. Every later release must read them. And headers that nobody writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions import state
from celery_partitions.model import versions
from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import StateError
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.record import HEADER, SIGNED, UNSIGNED, Signer
from tests.model.classes_in_time import code_in_time

#: A `golden_shop.Account` with cents=250 and names=["a", "b"], of the computation `count`, the key `AAPL` and the group `partition`.
PICKLE = (
    "80059541000000000000008c0b676f6c64656e5f73686f70948c074163636f756e749493942981947d94288c0563656e7473944bfa8c056e616d6573945d94288c0161948c"
    "0162946575622e"
)
SECRET = b"0123456789abcdef"
GOLDEN = {
    "unsigned": "01",
    "unsigned, version 2": "810000000481a17602",
    "signed": "0225c5ea8114e9838b828a10a85875a95c",
    "signed, version 2": "820000000481a17602f10eb234a7fb97ac17121900ebb0203d",
}
UNVERSIONED = "class Account:\n    cents = 0\n    names = []\n"
VERSION_2 = "@state(version=2)\n" + UNVERSIONED + "@migrates(Account, to_version=2)\ndef two(old): return {**old, 'cents': old['cents'] * 2}\n"


@pytest.mark.parametrize("form", GOLDEN)
def test_a_record_of_each_format_is_read(form: str) -> None:
    stored, keys = bytes.fromhex(GOLDEN[form] + PICKLE), (SECRET,) if form.startswith("signed") else ()
    is_old = "version" not in form
    with code_in_time() as code:
        codec = StateCodec(keys, group="partition")
        account = code.at(VERSION_2, "golden_shop", "Account")
        found = codec.load(account, "AAPL", stored)
        assert (found.cents, found.names) == (500 if is_old else 250, ["a", "b"])
        assert codec.dump(account, "AAPL", found)[:1] == bytes([0x82 if keys else 0x81]), "what is written has the version"
        unversioned = code.at(UNVERSIONED, "golden_shop", "Account")
        if is_old:
            assert StateCodec(keys, group="partition").load(unversioned, "AAPL", stored).cents == 250
        else:
            with pytest.raises(StateError, match="has version 2, but this process has version 1"):
                StateCodec(keys, group="partition").load(unversioned, "AAPL", stored)


@state(version=2)
class Counted: ...


@pytest.fixture
def counted() -> Iterator[Computation]:
    yield declare(lambda message, state: None, name="count", state=Counted, key=str)
    versions.versions_of(Counted).migrations.clear()


FORGED = ["2", -1, 0, 2**40, 2**63, True, 2.0, None, [2], {"v": 2}]


@pytest.mark.parametrize("version", FORGED, ids=repr)
@pytest.mark.parametrize("keys", [(), (SECRET,)], ids=["unsigned", "signed"])
def test_a_forged_version_is_a_state_error(counted: Computation, version: Any, keys: tuple[bytes, ...]) -> None:
    stored = StateCodec(keys).seal("count", "key", b"N.", {"v": version})
    with pytest.raises(StateError, match=r"state of 'count' can't be read: its header has the state version .*not an integer from 1 to 1,000,000"):
        StateCodec(keys).load(counted, "key", stored)


def test_the_signature_covers_the_version(counted: Computation) -> None:
    codec = StateCodec((SECRET,))
    assert counted.state is not None
    stored = codec.dump(counted, "key", counted.state.new())
    assert stored[:1] == bytes([SIGNED[0] + HEADER]) and stored.count(b"\xa1v\x02") == 1
    for other in (b"\xa1v\x01", b"\xa1v\x03"):
        with pytest.raises(StateError, match="signature is wrong"):
            codec.load(counted, "key", stored.replace(b"\xa1v\x02", other))


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("v"), inner, max_size=3),
    max_leaves=5,
)


@given(anything, st.booleans())
def test_any_header_is_read_or_is_a_state_error(header: Any, is_signed: bool) -> None:
    counted = declare(lambda message, state: None, name="count", state=Counted, key=str)
    assert counted.state is not None
    keys = (SECRET,) if is_signed else ()
    codec = StateCodec(keys)
    data = codec.opened("count", "key", codec.dump(counted, "key", counted.state.new()))[0]
    encoded = msgspec.msgpack.encode(header)
    head = bytes([(SIGNED if keys else UNSIGNED)[0] + HEADER]) + len(encoded).to_bytes(4, "big") + encoded
    tag = Signer(keys, "state", "", "count")._tag(0, "key", head, data) if keys else b""
    try:
        assert type(codec.load(counted, "key", head + tag + data)) is Counted
        assert header["v"] == 2
    except StateError:
        assert not isinstance(header, dict) or type(header.get("v")) is not int or header["v"] != 2
