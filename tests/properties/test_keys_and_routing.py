"""Any key has one written form and one partition, and is read back from Redis unchanged."""

from __future__ import annotations

from uuid import UUID
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.model.errors import KeyExtractionError
from celery_partitions.model.keys import key_bytes, key_text, normalize_key, partition_of

text = st.text(max_size=200)
keys = st.one_of(text, st.binary(max_size=200), st.integers(), st.booleans(), st.uuids())
any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=50)


@given(keys, st.integers(1, 4096))
def test_every_key_has_a_partition_below_n_and_always_the_same(key: object, partitions: int) -> None:
    where = partition_of(key, partitions)
    assert 0 <= where < partitions
    assert partition_of(normalize_key(key), partitions) == where
    assert crc32(key_bytes(normalize_key(key))) % partitions == where


@given(keys)
def test_a_written_key_is_read_back_from_redis_unchanged(key: object) -> None:
    spelled = normalize_key(key)
    assert key_text(key_bytes(spelled)) == spelled == normalize_key(spelled)


@given(st.binary(max_size=200))
def test_bytes_keep_their_bytes(key: bytes) -> None:
    assert key_bytes(normalize_key(key)) == key


@given(text, text)
def test_two_texts_are_two_keys(one: str, other: str) -> None:
    assert (key_bytes(one) == key_bytes(other)) is (one == other)


@given(any_text, any_text)
def test_text_with_surrogates_is_refused_or_has_unique_bytes(one: str, other: str) -> None:
    made = []
    for key in (one, other, one + other):
        try:
            made.append((key, key_bytes(key)))
        except KeyExtractionError:
            assert any("\ud800" <= character <= "\udfff" for character in key)
    for key, raw in made:
        assert key_text(raw) == key


@given(st.integers() | st.uuids() | st.text(max_size=20))
def test_a_number_a_uuid_and_their_text_are_one_key(value: int | UUID | str) -> None:
    assert normalize_key(value) == normalize_key(str(value)) == normalize_key(str(value).encode())
