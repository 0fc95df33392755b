"""Calls that wait, in the simulated world: the engine's own call thread, whose event loop is on virtual time.

Between any two steps of the event loop anything else may happen: a kill, a lost lease, an operator's edit.
"""

from __future__ import annotations

import asyncio
import selectors
from asyncio import events
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery_partitions.worker.calls import CallThread
from tests.simulation.application import Deed, Sequence
from tests.simulation.clock import Event
from tests.simulation.world import Process, World, world

#: Called with "begin" or "end" and a number, in a call. Returns how long the call takes. The running schedule sets it.
during_call: list[Callable[[str, int], float]] = [lambda what, number: 0.0]


async def apply(deed: Deed, state: Sequence) -> None:
    """The call of a computation that waits, before and after it changes its state."""
    seconds = during_call[0]("begin", deed.number)
    try:
        await asyncio.sleep(seconds)
        state.numbers.append(deed.number)
        await asyncio.sleep(during_call[0]("", deed.number))
    finally:
        during_call[0]("end", deed.number)


async def apply_batch(deeds: list[Deed], state: Sequence) -> None:
    """The same for a batch computation. It fails if one of its messages does, after it has changed its state."""
    seconds = during_call[0]("begin", deeds[0].number)
    try:
        await asyncio.sleep(seconds)
        for deed in deeds:
            state.numbers.append(deed.number)
            seconds = during_call[0]("", deed.number)
        await asyncio.sleep(seconds)
    finally:
        during_call[0]("end", deeds[0].number)


class _Selector(selectors.BaseSelector):
    """Waits in the world, for a time or for `woken`."""

    def __init__(self, of: World, loop: _Loop) -> None:
        self.world, self.loop = of, loop
        self.woken = False

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0 or not self.woken:
            events._set_running_loop(None)  # another worker's loop may run meanwhile
            try:
                self.world.wait(lambda: self.woken, None if timeout is None else self.world.now + max(0.0, timeout))
            finally:
                events._set_running_loop(self.loop)
        self.woken = False
        return []

    def register(self, *_: Any) -> Any: ...

    def unregister(self, *_: Any) -> Any: ...

    def get_map(self) -> Any:
        return {}


class _Loop(asyncio.SelectorEventLoop):
    """An event loop without sockets. Its time is the world's."""

    def __init__(self) -> None:
        self.virtual = _Selector(world(), self)
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.world.now

    def __del__(self) -> None:
        """A killed process leaves its event loop open. It has no file to close."""

    def _make_self_pipe(self) -> None: ...

    def _close_self_pipe(self) -> None: ...

    def _write_to_self(self) -> None:
        self.virtual.woken = True


class Calls(CallThread):
    """The engine's call thread as a thread of the world."""

    def __init__(self, process: Process, *arguments: Any) -> None:
        self.world, self.process = world(), process
        super().__init__(*arguments, make_loop=_Loop, make_event=lambda: Event(self.world))
        process.at_death.append(self.die)

    def begin(self) -> None:
        self._thread = self.world.spawn(self.process, "calls", self.run)
        self._ready.wait()

    def is_alive(self) -> bool:
        return not self._thread.ended and not self.process.dead

    def join(self, timeout: float | None = None) -> None:
        self.world.wait(lambda: self._thread.ended, None if timeout is None else self.world.now + timeout)

    def die(self) -> None:
        """The process is killed. Python would end its coroutines one after the other, and complain about them."""
        self._stopping._value = True  # type: ignore[attr-defined]
        for handle in self._loop._ready:  # type: ignore[attr-defined]
            handle.cancel()
        for task in asyncio.all_tasks(self._loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with suppress(ValueError, RuntimeError):  # the one that killed the process is still executing
                task.get_coro().close()  # type: ignore[union-attr]
