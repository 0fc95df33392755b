"""Time and events of a process in the simulation, which the engine's parts get in place of the machine's."""

from __future__ import annotations

from tests.simulation.world import World


class Clock:
    """The world's time. Each process has a monotonic clock of its own, which differs from the others' by `offset`."""

    def __init__(self, world: World, offset: float) -> None:
        self.world, self.offset = world, offset

    def monotonic(self) -> float:
        return self.world.now + self.offset

    def sleep(self, seconds: float, /) -> None:
        self.world.wait(None, self.world.now + seconds)


class Event:
    """`threading.Event` for greenlets."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def wait(self, timeout: float | None = None) -> None:
        self.world.wait(self.is_set, None if timeout is None else self.world.now + timeout)
