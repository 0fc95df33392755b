"""Keys: which values are valid, how a key is written, and to which partition it belongs."""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum
from uuid import UUID
from zlib import crc32

import pytest

from celery_partitions.model.errors import KeyExtractionError
from celery_partitions.model.keys import (
    MAX_KEY_BYTES,
    key_bytes,
    keys_shown_as,
    normalize_key,
    partition_of,
    shown_key,
)


class Colour(Enum):
    RED = "red"
    SEVEN = 7
    HALF = 0.5


class Level(IntEnum):
    HIGH = 3


class City(StrEnum):
    BERLIN = "Berlin"


class Loud(str):
    def __str__(self) -> str:
        return "LOUD"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("AAPL", "AAPL"),
        ("", ""),
        ("ключ", "ключ"),
        (b"AAPL", "AAPL"),
        (bytearray(b"x"), "x"),
        (b"\xff\x00", "\udcff\x00"),
        (7, "7"),
        (-(2**70), str(-(2**70))),
        (True, "true"),
        (False, "false"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Colour.SEVEN, "7"),
        (Level.HIGH, "3"),
        (City.BERLIN, "Berlin"),
        (Loud("quiet"), "quiet"),
    ],
)
def test_every_kind_of_key_has_one_written_form(value: object, written: str) -> None:
    assert normalize_key(value) == written
    assert type(normalize_key(value)) is str


@pytest.mark.parametrize("value", [None, 1.0, float("nan"), (), ["a"], {}, object(), Colour.HALF, memoryview(b"a")])
def test_an_invalid_key_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(KeyExtractionError, match="must be str, bytes, int"):
        normalize_key(value)


@pytest.mark.parametrize("value", ["x" * 4096, "é" * 2048, b"\xff" * 4096, int("9" * 4096)])
def test_a_key_of_4096_bytes_is_accepted_and_one_of_4097_is_not(value: object) -> None:
    assert len(key_bytes(normalize_key(value))) == MAX_KEY_BYTES
    longer = value * 10 if isinstance(value, int) else value + value[:1]  # type: ignore[operator, index]
    with pytest.raises(KeyExtractionError, match="more than 4096 bytes"):
        normalize_key(longer)


def test_an_int_too_long_for_python_to_print_is_refused_as_too_long() -> None:
    with pytest.raises(KeyExtractionError, match="more than 4096 bytes"):
        normalize_key(10**5000)


@pytest.mark.parametrize("value", ["\ud800", "a\udbffb", "\ud83d\ude00"])
def test_text_with_lone_surrogates_is_not_a_key(value: str) -> None:
    with pytest.raises(KeyExtractionError, match="not valid Unicode"):
        partition_of(value, 4)


def test_two_written_forms_never_have_the_same_bytes() -> None:
    # "é" as escaped bytes would be a different key in a worker's memory, but the same field in Redis.
    assert key_bytes("é") == "é".encode()
    with pytest.raises(KeyExtractionError, match="escaped bytes"):
        key_bytes("\udcc3\udca9")


def test_the_partition_is_crc32_of_the_utf8_bytes_modulo_n() -> None:
    assert crc32(b"123456789") == 0xCBF43926  # the check value of the published algorithm
    assert partition_of("123456789", 1000) == 0xCBF43926 % 1000
    assert partition_of(123456789, 1000) == partition_of(b"123456789", 1000) == 0xCBF43926 % 1000
    assert partition_of("ключ", 16) == crc32("ключ".encode()) % 16


@pytest.mark.parametrize(
    ("key", "shown"), [("AAPL", "AAPL"), ("café", "café"), ("caf\udce9", r"caf\xe9"), (r"caf\xe9", r"caf\xe9"), ("\udcff\0", "\\xff\0")]
)
def test_a_key_is_found_by_its_displayed_form(key: str, shown: str) -> None:
    assert shown_key(key) == shown
    assert key in keys_shown_as(shown)
    assert all(shown_key(one) == shown for one in keys_shown_as(shown))


def test_escaped_bytes_of_a_valid_character_are_only_themselves() -> None:
    assert keys_shown_as(r"\xc3\xa9") == [r"\xc3\xa9"], "these two bytes would be displayed as é"
