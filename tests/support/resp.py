"""Where one Redis request or reply ends and the next begins, in RESP2 and RESP3."""

from __future__ import annotations

from collections.abc import Iterator

#: Types whose header is followed by that many bytes and a line end: string, error, verbatim string.
BULK = b"$!="
#: Types whose header is followed by that many elements, and how many each counts for.
ELEMENTS = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}
#: An attribute precedes the value that it describes, and so adds one more element.
ATTRIBUTE = b"|"

LINE_END = b"\r\n"


class Frames:
    """Cuts a stream of bytes into whole requests or replies.

    Reads each element once, however the stream is split. An inline request (a plain line) is a frame too.
    Values of unknown length, which no server sends, are not understood.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0  # of the first element that is not read yet
        self._missing = 1  # elements until the frame is whole

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Every frame that `data` completes, in order."""
        self._buffer += data
        while self._read_element():
            if self._missing == 0:
                yield bytes(self._buffer[: self._position])
                del self._buffer[: self._position]
                self._position, self._missing = 0, 1

    def rest(self) -> bytes:
        """What belongs to no whole frame yet. The stream goes on without frames."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def _read_element(self) -> bool:
        """Skip the next header and its bytes. False if they have not arrived completely."""
        header_end = self._buffer.find(LINE_END, self._position)
        if header_end < 0:
            return False
        kind = bytes(self._buffer[self._position : self._position + 1])
        end, children = header_end + len(LINE_END), 0
        if kind in ELEMENTS or kind in BULK:
            size = max(int(self._buffer[self._position + 1 : header_end]), 0)  # -1 is RESP2's null
            if kind in ELEMENTS:
                children = size * ELEMENTS[kind] + (kind == ATTRIBUTE)
            elif self._buffer[self._position + 1 : self._position + 2] != b"-":
                end += size + len(LINE_END)
        if end > len(self._buffer):
            return False
        self._position = end
        self._missing += children - 1
        return True
