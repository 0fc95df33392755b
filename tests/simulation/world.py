"""Virtual time, and threads that are greenlets: one runs at a time, chosen by a seeded scheduler.

A thread runs until it waits for an answer, a message, an event or a time. Between two such points nothing else happens;
at each of them anything may.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from tests.simulation.server import Server, Session

#: The time at which every schedule starts, in seconds since the epoch.
BEGINNING = 1_800_000_000.0

#: The actions of producers and operators take effect at once.
OUTSIDE = "outside"

_worlds: list[World] = []


def world() -> World:
    """The world of the running schedule."""
    return _worlds[-1]


class Process:
    """A worker process: its threads share its clock, and are killed and suspended together."""

    def __init__(self, name: str, clock_offset: float) -> None:
        self.name = name
        #: Its monotonic clock minus the world's.
        self.clock_offset = clock_offset
        self.dead = False
        self.frozen_until = 0.0
        self.threads: list[Thread] = []
        #: Called when it is killed.
        self.at_death: list[Callable[[], None]] = []


class Thread:
    """One greenlet, with what it waits for."""

    def __init__(self, of: World, process: Process, name: str, run: Callable[[], Any]) -> None:
        self.process, self.name = process, name
        self.frozen_until = 0.0
        self.ready: Callable[[], bool] | None = None
        self.until: float | None = None
        self.greenlet = greenlet(run, parent=of.hub)
        self.greenlet.thread = self

    @property
    def ended(self) -> bool:
        return bool(self.greenlet.dead)

    @property
    def sleeps(self) -> bool:
        """Whether it waits only for a time."""
        return self.ready is None

    def thaws(self) -> float:
        return max(self.frozen_until, self.process.frozen_until)

    def can_run(self, now: float) -> bool:
        if self.frozen_until > now or self.process.frozen_until > now:
            return False
        if self.until is not None and self.until <= now:
            return True
        return self.until is None if self.ready is None else self.ready()

    def wakes(self) -> float | None:
        """When it can run again if nothing else happens; None: it waits for something else."""
        return None if self.until is None else max(self.until, self.thaws())


class World:
    """The world of one schedule. Inside its context, `world()` returns it."""

    def __init__(self, seed: object, server: Server) -> None:
        self.random = random.Random(str(seed))
        self.server = server
        self.now = server.keyspace.now = BEGINNING
        self.hub = getcurrent()
        self.threads: list[Thread] = []
        self.paused_until = self.down_until = 0.0
        #: Until then the server accepts no connections.
        self.full_until = 0.0
        #: The events, if they are recorded.
        self.trace: list[str] | None = None

    def __enter__(self) -> World:
        _worlds.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        for process in {thread.process.name: thread.process for thread in self.threads}.values():
            self.kill(process)
        _worlds.remove(self)

    def note(self, text: str, *values: Any) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now - BEGINNING:9.4f}  {text % values if values else text}")

    # For code in threads.

    def current(self) -> Thread | None:
        return getattr(getcurrent(), "thread", None)

    def who(self) -> str:
        thread = self.current()
        return OUTSIDE if thread is None else thread.process.name

    def check_alive(self) -> None:
        """A killed process does nothing more, not even in `finally` clauses."""
        thread = self.current()
        if thread is not None and thread.process.dead:
            raise GreenletExit

    def die(self) -> None:
        """The running thread kills its own process."""
        thread = self.current()
        assert thread is not None
        thread.process.dead = True
        self.hub.switch()

    def wait(self, ready: Callable[[], bool] | None, until: float | None = None) -> None:
        """Let other threads run until `ready` or a given time, and until the scheduler picks this thread again."""
        thread = self.current()
        if thread is None:  # actions from outside take effect at once
            self.deliver_all()
            return
        self.check_alive()
        thread.ready, thread.until = ready, until
        self.hub.switch()
        self.check_alive()

    @property
    def server_is_down(self) -> bool:
        return self.down_until > self.now

    def hang_up(self, session: Session) -> None:
        """The client closes its connection. What it sent may still arrive, or be lost."""
        session.cut = True
        session.blocked, session.channels = None, set()
        session.outbox.clear()
        if session.inbox and self.random.random() < 0.5:
            session.inbox.clear()

    # For the scheduler.

    def spawn(self, process: Process, name: str, run: Callable[[], Any]) -> Thread:
        thread = Thread(self, process, name, run)
        process.threads.append(thread)
        self.threads.append(thread)
        return thread

    def kill(self, process: Process) -> None:
        """As by SIGKILL: none of its threads run any more. What it sent may still arrive."""
        process.dead = True
        for at_death in process.at_death:
            at_death()
        for thread in process.threads:
            if not thread.ended:
                with suppress(GreenletExit):
                    thread.greenlet.throw(GreenletExit)
        for session in self.server.sessions:
            if session.owner == process.name:
                self.hang_up(session)
        self.threads = [thread for thread in self.threads if thread.process is not process]

    def advance(self, to: float) -> None:
        self.now = max(self.now, to)
        self.server.keyspace.now = self.now + self.server.clock_offset
        self.server.wake_blocked()

    def deliver_all(self) -> None:
        """Execute requests from outside at once."""
        for session in self.server.sessions:
            while session.owner == OUTSIDE and session.deliverable:
                self.deliver(session)

    def deliver(self, session: Session) -> None:
        words, answer = self.server.deliver(session)
        if session.cut:
            session.outbox.clear()
            session.blocked = None
        self.delivered(session, words, answer)

    def delivered(self, session: Session, words: list[bytes], answer: Any) -> None:
        """Replaced by code that wants to see every request."""

    def candidates(self) -> list[Thread | Session]:
        """Everything that could happen now."""
        now = self.now
        found: list[Thread | Session] = [thread for thread in self.threads if thread.can_run(now)]
        if self.paused_until <= now and self.down_until <= now:
            found += [session for session in self.server.sessions if session.inbox and session.blocked is None]
        return found

    def resume(self, thread: Thread) -> None:
        thread.ready = thread.until = None
        thread.greenlet.switch()
        if thread.ended:
            self.threads.remove(thread)

    def next_moment(self) -> float | None:
        """The next time at which something happens without a request; None: never."""
        moments = [moment for thread in self.threads if (moment := thread.wakes()) is not None]
        moments += [thread.thaws() for thread in self.threads if thread.thaws() > self.now]
        moments += [session.blocked_until for session in self.server.sessions if session.blocked is not None]
        moments += [moment for moment in (self.paused_until, self.down_until) if moment > self.now]
        return min(moments, default=None)

    def sweep(self) -> None:
        """Forget sessions that will send nothing more."""
        self.server.sessions = [one for one in self.server.sessions if not one.cut or one.inbox or one.outbox]
