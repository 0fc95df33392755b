"""Faults of workers, connections and the server."""

from __future__ import annotations

import copy

from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, ResponseError

from celery_partitions.store.scripts import script
from celery_partitions.testing.keyspace import Words
from tests.simulation.outside import Operators
from tests.simulation.server import Session
from tests.simulation.trace import format_request
from tests.simulation.worker import Worker

#: A server that loads its data, or is busy with another client's script, refuses everything. One that is full, or has
#: become a replica, refuses scripts.
REFUSALS = (
    BusyLoadingError("Redis is loading the dataset in memory"),
    ResponseError("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
)
REFUSALS_OF_SCRIPTS = (
    *REFUSALS,
    OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    ReadOnlyError("You can't write against a read only replica."),
)


def is_commit_with_messages(words: Words) -> bool:
    """Whether a request is a commit that removes messages."""
    if words[0] != b"EVALSHA" or words[1] != script("commit").digest.encode():
        return False
    taken = words[3 + int(words[2]) :][3]
    return int(taken) > 0


class Faults(Operators):
    """Each method except `deliver` and `during` is a fault that the storm injects at a random moment."""

    def deliver(self, session: Session) -> None:
        """A request arrives, or is lost, or its answer is lost."""
        if self.stormy and self.change_next and is_commit_with_messages(session.inbox[0]):
            self.change_next = False
            self.log(f"reply lost: {session.owner} {format_request(session.inbox[0])}", "changed after a commit")
            session.cut = True
            self.world.deliver(session)
            session.inbox.clear()
            session.outbox.clear()
            self.judge.look()
            self.random.choice((self.forget, self.edit))()
        elif self.stormy and session.owner != "outside" and self.random.random() < self.loss_rate:
            kind = self.random.choice(("request lost", "reply lost", "request late", "request refused"))
            self.log(f"{kind}: {session.owner} {format_request(session.inbox[0])}", kind)
            if kind == "request refused":
                is_script = session.inbox.popleft()[0].startswith(b"EVAL")
                session.outbox.append(self.random.choice(REFUSALS_OF_SCRIPTS if is_script else REFUSALS))
                return
            session.cut = True
            if kind == "reply lost":
                self.world.deliver(session)
            if kind != "request late":
                session.inbox.clear()
            session.outbox.clear()
            session.blocked, session.channels = None, set()
        else:
            self.world.deliver(session)

    def change_after_commit(self) -> None:
        """The reply to the next commit is lost. Before it is sent again, an operator changes a state. The worker first learns of
        the change from the answer to the repeated commit."""
        self.change_next = True

    def during(self, number: int) -> None:
        """Called in a computation: it kills the process, raises, or takes long while everything else continues."""
        self.world.check_alive()
        if number in self.poison_messages:
            self.log(f"{self.world.who()} is killed by {number}", "poison")
            self.world.die()
        if not self.stormy and not self.stays_slow:
            return
        if self.stormy and (number in self.spoilers or self.random.random() < self.raise_rate):
            self.world.note("%-9s raises at %d", self.world.who(), number)
            raise ValueError(f"{number} fails on purpose")
        if self.random.random() < self.slow_rate:
            seconds = self.random.choice((0.0, 0.1, 1.5))
            self.world.note("%-9s takes %.1f s for %d", self.world.who(), seconds, number)
            self.world.wait(None, self.world.now + seconds)

    def during_call(self, what: str, number: int) -> float:
        """Called in a call outside of the loop: as `during`, and the judge sees when the call begins and ends. Returns how long it takes."""
        process = self.world.who()
        if what != "end":
            self.world.check_alive()
        if what:
            self.judge.called(what, process, number)
        if what == "end":
            return 0.0
        if number in self.poison_messages:
            self.log(f"{process} is killed by {number}", "poison")
            self.world.die()
        if not what and self.stormy and (number in self.spoilers or self.random.random() < self.raise_rate):
            self.world.note("%-9s raises at %d", process, number)
            raise ValueError(f"{number} fails on purpose")
        return self.call_random.choice(self.call_seconds)

    def join(self) -> None:
        if len(self.running()) < 3:
            self.joined += 1
            name = f"worker-{self.joined}"
            self.log(f"{name} joins", "join")
            self.workers.append(Worker(self.world, self.install, name, self.ran_plain_task))

    def kill(self) -> None:
        if (worker := self.some_worker()) is not None:
            self.log(f"{worker.name} is killed", "kill")
            self.world.kill(worker.process)
            self.workers.remove(worker)

    def leave(self) -> None:
        if (worker := self.some_worker()) is not None and not worker.leaving:
            cold = self.random.random() < 0.5
            self.log(f"{worker.name} is stopped{' at once' if cold else ''}", "leave")
            worker.leave(cold=cold)

    def freeze(self) -> None:
        """A process, or one thread of it, is suspended for less than a lease or for more."""
        if (worker := self.some_worker()) is not None:
            what = self.random.choice([worker.process, *worker.process.threads])
            seconds = self.random.choice((0.2, 0.9, 1.5, 4.0))
            self.log(f"{worker.name} {what.name} is suspended for {seconds} s", "freeze")
            what.frozen_until = self.world.now + seconds

    def pass_time(self) -> None:
        """Much time passes at once."""
        seconds = self.random.choice((0.05, 0.5, 1.2))
        self.log(f"{seconds} s pass", "time")
        self.world.advance(self.world.now + seconds)

    def cut(self) -> None:
        sessions = [session for session in self.server.sessions if not session.cut and session.owner != "outside"]
        if sessions:
            session = self.random.choice(sessions)
            self.log(f"a connection of {session.owner} is cut", "cut")
            session.cut, session.blocked, session.channels = True, None, set()
            session.outbox.clear()

    def fill_server(self) -> None:
        """The server accepts no more connections, and one of a worker is cut: that of its loop or of its lease keeper."""
        seconds = self.random.choice((0.5, 2.5, 6.0))
        self.log(f"the server accepts no more connections for {seconds} s", "server full")
        self.world.full_until = self.world.now + seconds
        self.cut()

    def pause_server(self) -> None:
        seconds = self.random.choice((0.3, 1.5))
        self.log(f"the server is suspended for {seconds} s", "server pause")
        self.world.paused_until = self.world.now + seconds

    def restart_server(self) -> None:
        """The server keeps its data, but loses its scripts and connections."""
        seconds = self.random.choice((0.0, 0.3, 1.5))
        self.log(f"the server is unreachable for {seconds} s", "server restart")
        self.world.down_until = self.world.now + seconds
        self.server.scripts.clear()
        for session in self.server.sessions:
            session.cut, session.blocked, session.channels = True, None, set()
            session.inbox.clear()
            session.outbox.clear()

    def save(self) -> None:
        """Save the server's data to its disk. `lose` restores it."""
        self.log("the server saves", "save")
        self.saved = copy.deepcopy((self.server.keyspace.data, self.server.keyspace.ends)), self.judge.remember()
        self.saved_known = dict(self.known)
        self.saved_plain_task = set(self.plain_task)

    def lose(self) -> None:
        """The server is killed and comes back with the data on its disk, where queues and states are from the same moment."""
        if self.saved is not None:
            self.log("the server comes back with older data", "lose")
            self.restart_server()
            (data, ends), known = self.saved
            self.server.keyspace.data, self.server.keyspace.ends = copy.deepcopy((data, ends))
            self.server.keyspace.touched.clear()
            self.judge.went_back(known)
            self.known = dict(self.saved_known)
            self.plain_task = set(self.saved_plain_task)

    def set_clock(self) -> None:
        """Somebody sets the server's clock, forward or back."""
        seconds = self.random.choice((-20.0, -2.0, 2.0, 20.0))
        self.log(f"the server's clock jumps by {seconds} s", "clock")
        self.server.clock_offset += seconds
        self.world.advance(self.world.now)

    def flush_scripts(self) -> None:
        self.log("the scripts are flushed", "script flush")
        self.server.scripts.clear()
