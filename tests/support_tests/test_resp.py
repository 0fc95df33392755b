"""Requests and replies are split where they end, however the bytes arrive."""

import pytest

from tests.support.resp import Frames

FRAMES = [
    b"*2\r\n$3\r\nGET\r\n$4\r\n\r\n\r\n\r\n",  # a value that looks like line ends
    b"+OK\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b":12\r\n",
    b"*2\r\n*2\r\n:1\r\n:2\r\n$0\r\n\r\n",
    b"%1\r\n+key\r\n~2\r\n:1\r\n_\r\n",
    b">3\r\n+message\r\n+channel\r\n$2\r\nhi\r\n",
    b"|1\r\n+ttl\r\n:3\r\n$2\r\nhi\r\n",
    b"PING\r\n",
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_frames(size: int) -> None:
    stream = b"".join(FRAMES)
    frames = Frames()
    chunks = (stream[start : start + size] for start in range(0, len(stream), size))
    assert [frame for chunk in chunks for frame in frames.feed(chunk)] == FRAMES
