"""Shutdown: the first SIGTERM or SIGINT lets the process finish what it has read; a second one ends it immediately."""

from __future__ import annotations

import select
import signal
import socket
from typing import Any


class EndAtOnce(KeyboardInterrupt):
    """A second signal ends the process now. It may be raised in any code, so no message may be blamed for it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        #: The exit code of the process.
        self.code = 128 + number


class Stop:
    """Whether the process was asked to stop. Code that waits calls `wait`, or selects `reader` together with its own sockets."""

    def __init__(self) -> None:
        self.requested = False
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def listen(self) -> None:
        """Install the handlers of both signals. Call it once, in the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def ask(self) -> None:
        """Ask the process to stop. Any thread may call it."""
        if not self.requested:
            self.requested = True
            self._writer.send(b"x")

    def wait(self, seconds: float) -> bool:
        """Wait until the process is asked to stop, at most `seconds`. Returns whether it was asked."""
        if not self.requested:
            select.select([self.reader], [], [], max(0.0, seconds))
        return self.requested

    def close(self) -> None:
        self.reader.close()
        self._writer.close()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.requested:
            raise EndAtOnce(number)
        self.ask()
