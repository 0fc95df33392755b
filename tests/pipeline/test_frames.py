"""Frames: in whatever pieces a stream arrives, the payloads are those that were framed."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.model.errors import DeclarationError
from celery_partitions.pipeline.frames import Decoder, FrameError, FrameSplitter, decoder, encoder
from tests.pipeline import declared

FORMATS = ["B", ">H", "<H", ">I", "<i", "=L", "!Q", ">q"]


def framed(length_fmt: str, payloads: list[bytes]) -> bytes:
    return b"".join(struct.pack(length_fmt, len(payload)) + payload for payload in payloads)


def made(length_fmt: str) -> Decoder:
    return decoder(header_length=struct.calcsize(length_fmt), length_fmt=length_fmt)(bytes)


@given(
    st.sampled_from(FORMATS), st.lists(st.binary(max_size=30), max_size=20), st.lists(st.integers(0, 40), max_size=60)
)
def test_payloads_are_the_framed_ones_in_whatever_pieces_they_arrive(
    length_fmt: str, payloads: list[bytes], pieces: list[int]
) -> None:
    stream = framed(length_fmt, payloads)
    splitter = FrameSplitter(made(length_fmt))
    out: list[bytes] = []
    for size in [*pieces, len(stream)]:
        out += splitter.feed(stream[:size])
        stream = stream[size:]
    assert out == payloads
    assert splitter.waiting == 0


@given(st.lists(st.binary(max_size=30), max_size=5), st.binary(min_size=1, max_size=20), st.data())
def test_an_incomplete_frame_waits(payloads: list[bytes], last: bytes, data: st.DataObject) -> None:
    tail = framed(">H", [last])
    kept = data.draw(st.integers(1, len(tail) - 1))
    splitter = FrameSplitter(made(">H"))
    assert splitter.feed(framed(">H", payloads) + tail[:kept]) == payloads
    assert splitter.waiting == kept
    assert splitter.feed(tail[kept:]) == [last]


@pytest.mark.parametrize(
    ("length_fmt", "length", "says"),
    [(">I", 101, "a length of 101 bytes; allowed are 0 to 100"), (">i", -1, "a length of -1 bytes")],
)
def test_an_invalid_length_is_an_error_that_keeps_the_earlier_payloads(length_fmt: str, length: int, says: str) -> None:
    splitter = FrameSplitter(made(length_fmt), max_bytes=100)
    with pytest.raises(FrameError, match=says) as raised:
        splitter.feed(framed(length_fmt, [b"a", bytes(100)]) + struct.pack(length_fmt, length) + b"more")
    assert raised.value.payloads == [b"a", bytes(100)]


def test_a_large_payload_in_many_pieces_is_joined_once() -> None:
    payload = bytes(7_900_000)
    stream = framed(">I", [payload, b"next"])
    splitter = FrameSplitter(made(">I"))
    out = [got for at in range(0, len(stream), 4_096) for got in splitter.feed(stream[at : at + 4_096])]
    assert out == [payload, b"next"]


def test_an_object_with_the_methods_is_also_a_decoder() -> None:
    splitter = FrameSplitter(declared.DecoderClass())
    assert splitter.feed(b"00002hi00000") == [b"hi", b""]
    with pytest.raises(FrameError, match=r"no length can be read from the header .*: invalid literal"):
        splitter.feed(b"hello")


def test_a_decoder_returns_what_its_function_returns() -> None:
    assert declared.text(b"caf\xc3\xa9") == declared.text.decode(b"caf\xc3\xa9") == "café"
    assert declared.text.header_length() == 4
    assert declared.text.payload_length(b"\0\0\1\0") == 256
    assert declared.text.__doc__ == "The payload as text."
    assert decoder()(lambda payload: None)(b"x") is None


@pytest.mark.parametrize(
    ("returned", "sent"),
    [(b"a", b"a"), ("é", b"\xc3\xa9"), (bytearray(b"b"), b"b"), (memoryview(b"c"), b"c"), ("", b""), (None, None)],
)
def test_an_encoder_returns_bytes_or_none(returned: Any, sent: bytes | None) -> None:
    made = encoder(lambda value: returned)
    assert (made(1), made.encode(1)) == (sent, returned)


@pytest.mark.parametrize("returned", [1, [b"a"], {"a": 1}, (b"a", b"b")])
def test_an_encoder_that_returns_anything_else_is_an_error(returned: object) -> None:
    with pytest.raises(TypeError, match=r"encoder .*<lambda> returned (int|list|dict|tuple)"):
        encoder(lambda value: returned)(1)


@pytest.mark.parametrize("one", [declared.text, declared.line, declared.Inner.nested])
def test_an_object_with_a_name_in_its_module_is_pickled_by_name(one: object) -> None:
    data = pickle.dumps(one)
    assert pickle.loads(data) is one
    assert len(data) < 100


@pytest.mark.parametrize("one", [declared.short, declared.long])
def test_an_object_that_was_decorated_by_hand_is_pickled_by_its_parts(one: Decoder) -> None:
    again = pickle.loads(pickle.dumps(one))
    assert again.function is declared.plain
    assert again.header_length() == one.header_length()
    header = bytes(one.header_length() - 1) + b"\1"
    assert again.payload_length(header) == one.payload_length(header)
    assert pickle.loads(pickle.dumps(declared.tagged))(1) == b"#1"


@pytest.mark.parametrize(
    ("header_length", "length_fmt", "says"),
    [
        (4, ">H", r"reads 2 bytes, but header_length= is 4"),
        (4, "L", r"reads 8 bytes.*this machine's sizes"),
        ("4", ">I", r"header_length= is '4'"),
        (4, ">f", "one integer"),
        (4, "4s", "one integer"),
        (4, ">HH", "one integer"),
        (0, "", "one integer"),
        (4, ">Z", "is not a valid struct format"),
        (4, None, "is not a valid struct format"),
    ],
)
def test_an_invalid_header_is_refused_when_it_is_declared(
    header_length: Any, length_fmt: Any, says: str
) -> None:
    with pytest.raises(DeclarationError, match=says):
        decoder(header_length=header_length, length_fmt=length_fmt)(bytes)


@pytest.mark.parametrize("function", [lambda: None, lambda one, two: None, lambda *, named: None, 3])
def test_a_function_that_does_not_take_one_argument_is_refused(function: Any) -> None:
    with pytest.raises(DeclarationError, match="decoder"):
        decoder()(function)
    with pytest.raises(DeclarationError, match="encoder"):
        encoder(function)


def test_a_function_with_more_parameters_that_have_defaults_is_accepted() -> None:
    assert decoder()(lambda payload, coding="utf-8": payload.decode(coding))(b"a") == "a"
