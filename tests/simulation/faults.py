"""What goes wrong with workers, connections and the server."""

from __future__ import annotations

import copy

from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, ResponseError

from celery_partitions.store.scripts import script
from celery_partitions.testing.keyspace import Words
from tests.simulation.outside import Operators
from tests.simulation.server import Session
from tests.simulation.tell import tell_request
from tests.simulation.worker import Worker

#: A server that loads its data, or is busy with somebody's script, refuses everything; one that is full, or has become a
#: replica, refuses scripts.
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
    """Each method but `deliver` and `during` is one thing that the storm does at a random moment."""

    def deliver(self, session: Session) -> None:
        """A request arrives, or does not, or its answer does not."""
        if self.stormy and self.change_next and is_commit_with_messages(session.inbox[0]):
            self.change_next = False
            self.tell(f"reply lost: {session.owner} {tell_request(session.inbox[0])}", "changed after a commit")
            session.cut = True
            self.world.deliver(session)
            session.inbox.clear()
            session.outbox.clear()
            self.judge.look()
            self.random.choice((self.forget, self.edit))()
        elif self.stormy and session.owner != "outside" and self.random.random() < self.loss_rate:
            kind = self.random.choice(("request lost", "reply lost", "request late", "request refused"))
            self.tell(f"{kind}: {session.owner} {tell_request(session.inbox[0])}", kind)
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
        """The next commit's reply is lost. Before it is sent again, an operator changes a state: the repetition's answer is the first to
        show that to the worker."""
        self.change_next = True

    def during(self, number: int) -> None:
        """In a computation: it ends the process, raises, or takes long, and everything else goes on."""
        self.world.check_alive()
        if number in self.poison_messages:
            self.tell(f"{self.world.who()} is ended by {number}", "killer")
            self.world.die()
        if not self.stormy:
            return
        if self.random.random() < self.raise_rate:
            self.world.note("%-9s raises at %d", self.world.who(), number)
            raise ValueError(f"{number} was told to fail")
        if self.random.random() < self.slow_rate:
            seconds = self.random.choice((0.0, 0.1, 1.5))
            self.world.note("%-9s takes %.1f s for %d", self.world.who(), seconds, number)
            self.world.wait(None, self.world.now + seconds)

    def join(self) -> None:
        if len(self.running()) < 3:
            self.joined += 1
            name = f"worker-{self.joined}"
            self.tell(f"{name} joins", "join")
            self.workers.append(Worker(self.world, self.installation, name, self.ran_plain_task))

    def kill(self) -> None:
        if (worker := self.some_worker()) is not None:
            self.tell(f"{worker.name} is killed", "kill")
            self.world.kill(worker.process)
            self.workers.remove(worker)

    def leave(self) -> None:
        if (worker := self.some_worker()) is not None and not worker.leaving:
            cold = self.random.random() < 0.5
            self.tell(f"{worker.name} is told to end{' at once' if cold else ''}", "leave")
            worker.leave(cold=cold)

    def freeze(self) -> None:
        """A process, or one thread of it, stands still, for less than a lease or for more."""
        if (worker := self.some_worker()) is not None:
            what = self.random.choice([worker.process, *worker.process.threads])
            seconds = self.random.choice((0.2, 0.9, 1.5, 4.0))
            self.tell(f"{worker.name} {what.name} stands still for {seconds} s", "freeze")
            what.frozen_until = self.world.now + seconds

    def pass_time(self) -> None:
        """Everything takes long at once."""
        seconds = self.random.choice((0.05, 0.5, 1.2))
        self.tell(f"{seconds} s pass", "time")
        self.world.advance(self.world.now + seconds)

    def cut(self) -> None:
        sessions = [session for session in self.server.sessions if not session.cut and session.owner != "outside"]
        if sessions:
            session = self.random.choice(sessions)
            self.tell(f"a connection of {session.owner} is cut", "cut")
            session.cut, session.blocked, session.channels = True, None, set()
            session.outbox.clear()

    def fill_server(self) -> None:
        """The server has as many connections as it takes, and one of a worker is cut: perhaps its loop's, perhaps its keeper's."""
        seconds = self.random.choice((0.5, 2.5, 6.0))
        self.tell(f"the server takes no more connections for {seconds} s", "server full")
        self.world.full_until = self.world.now + seconds
        self.cut()

    def pause_server(self) -> None:
        seconds = self.random.choice((0.3, 1.5))
        self.tell(f"the server stands still for {seconds} s", "server pause")
        self.world.paused_until = self.world.now + seconds

    def restart_server(self) -> None:
        """What it holds it keeps, its scripts and connections it does not."""
        seconds = self.random.choice((0.0, 0.3, 1.5))
        self.tell(f"the server is away for {seconds} s", "server restart")
        self.world.down_until = self.world.now + seconds
        self.server.scripts.clear()
        for session in self.server.sessions:
            session.cut, session.blocked, session.channels = True, None, set()
            session.inbox.clear()
            session.outbox.clear()

    def save(self) -> None:
        """The server's disk has what it holds now; `lose` brings it back to that."""
        self.tell("the server saves", "save")
        self.saved = copy.deepcopy((self.server.keyspace.data, self.server.keyspace.ends)), self.judge.remember()
        self.saved_plain_task = set(self.plain_task)

    def lose(self) -> None:
        """The server is killed, and comes back with what its disk has: queues and states are from one moment."""
        if self.saved is not None:
            self.tell("the server comes back with older data", "lose")
            self.restart_server()
            (data, ends), known = self.saved
            self.server.keyspace.data, self.server.keyspace.ends = copy.deepcopy((data, ends))
            self.server.keyspace.touched.clear()
            self.judge.went_back(known)
            self.plain_task = set(self.saved_plain_task)

    def flush_scripts(self) -> None:
        self.tell("the scripts are forgotten", "script flush")
        self.server.scripts.clear()
