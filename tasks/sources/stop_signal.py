"""Being told to end: SIGTERM or SIGINT let the process finish what it has read; a second one ends it at once."""

from __future__ import annotations

import select
import signal
import socket
from typing import Any


class EndAtOnce(KeyboardInterrupt):
    """The process was told to end a second time. Whatever code it is raised in: no message is to be blamed for it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        #: What the process exits with.
        self.code = 128 + number


class Stop:
    """Whether the process was told to end. Whatever waits, waits here, or selects `reader` beside its own."""

    def __init__(self) -> None:
        self.asked = False
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def listen(self) -> None:
        """Take the two signals. Called once, in the main thread."""
        signal.signal(signal.SIGTERM, self._told)
        signal.signal(signal.SIGINT, self._told)

    def ask(self) -> None:
        """End soon. Any thread may call it."""
        if not self.asked:
            self.asked = True
            self._writer.send(b"x")

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until the process is told to end; whether it was."""
        if not self.asked:
            select.select([self.reader], [], [], max(0.0, seconds))
        return self.asked

    def close(self) -> None:
        self.reader.close()
        self._writer.close()

    def _told(self, number: int, frame: Any) -> None:
        if self.asked:
            raise EndAtOnce(number)
        self.ask()
