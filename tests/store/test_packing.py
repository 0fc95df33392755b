"""Commands are packed exactly as redis-py packs them."""

from __future__ import annotations

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import Connection

from celery_partitions.store.client import connect
from celery_partitions.store.packing import Packer, Word
from celery_partitions_config.settings import Settings

words = st.text(max_size=40) | st.binary(max_size=2000) | st.integers() | st.floats(allow_nan=False)


@given(st.sampled_from(["EVALSHA", "CLIENT SETNAME", b"LPUSH"]), st.lists(words, max_size=20))
def test_it_is_what_redis_py_sends(name: str | bytes, rest: list[Word]) -> None:
    assert b"".join(Packer().pack(name, *rest)) == b"".join(Connection().pack_command(name, *rest))


@pytest.mark.parametrize("word", [None, True, ["a"], object()])
def test_what_redis_cannot_store_is_refused(word: object) -> None:
    with pytest.raises(redis.DataError):
        Packer().pack("EVALSHA", word)  # type: ignore[arg-type]


def test_our_connections_use_it(settings: Settings) -> None:
    with connect(settings) as client:
        connection = client.connection_pool.get_connection()
        assert isinstance(connection._command_packer, Packer)
        client.connection_pool.release(connection)
        client.rpush("list", "ä", b"\r\n$3\r\n", 7, 0.5, bytearray(b"x") * 3000)
        assert client.lrange("list", 0, -1) == ["ä".encode(), b"\r\n$3\r\n", b"7", b"0.5", b"x" * 3000]
