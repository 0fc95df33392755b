"""The time and the events of a simulated process. The engine's parts get these instead of the real ones."""

from __future__ import annotations

from tests.simulation.world import World


class Clock:
    """The world's time. Each process has its own monotonic clock, which is shifted by `offset`."""

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
