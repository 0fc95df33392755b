"""What a function does on the server, without the I/O: a blocking client and an asyncio client run the same program.

A program is a generator. It yields requests, gets their replies, and returns its result. What a request raises, it raises in the program.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import redis

T = TypeVar("T")

#: Connections of one event loop. Enough to hide the round trips of concurrent tasks, and few enough for any server.
ASYNC_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


#: Called with a client, whose commands have the same names in both kinds. Returns the reply; from an asyncio client, an awaitable of it.
Request = Callable[[Any], Any]
Program = Generator[Request | Pause, Any, T]


def run(client: redis.Redis, program: Program[T]) -> T:
    """Run a program in this thread."""
    try:
        request = next(program)
        while True:
            try:
                reply = _pause(request) if isinstance(request, Pause) else request(client)
            except BaseException as error:
                request = program.throw(error)
            else:
                request = program.send(reply)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _pause(pause: Pause) -> Any:
    time.sleep(pause.seconds)


class AsyncClients:
    """The asyncio client of each event loop, made on first use. A loop's connections can be used in that loop only."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Any, asyncio.Semaphore]] = WeakKeyDictionary()

    def current(self) -> tuple[Any, asyncio.Semaphore]:
        """The running loop's client, and what limits its connections."""
        loop = asyncio.get_running_loop()
        found = self._of_loops.get(loop)
        if found is None:
            found = self._of_loops[loop] = self._connect(), asyncio.Semaphore(ASYNC_CONNECTIONS)
        return found

    async def run(self, program: Program[T]) -> T:
        """Run a program in the running event loop."""
        client, slots = self.current()
        try:
            request = next(program)
            while True:
                try:
                    reply = None
                    if isinstance(request, Pause):
                        await asyncio.sleep(request.seconds)
                    else:
                        async with slots:
                            reply = await request(client)
                except BaseException as error:
                    request = program.throw(error)
                else:
                    request = program.send(reply)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close the running loop's connections."""
        client, _ = self._of_loops.pop(asyncio.get_running_loop(), (None, None))
        if client is not None:
            await client.aclose()
