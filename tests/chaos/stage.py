"""The system that a chaos run tests: its own server, lines to it that can be cut, workers and producers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from tests.chaos import application, recorder
from tests.chaos.acts import EXIT_CODE
from tests.chaos.operator import Operator, node_of
from tests.chaos.prober import Prober
from tests.chaos.schedule import LEASE_SECONDS, LINES, PARTITIONS, PRODUCERS, WORKERS
from tests.chaos.traffic import Producer
from tests.fundamentals.live import LiveGroup
from tests.support.proxy import Proxy
from tests.support.proxy_connection import Fault
from tests.support.server import RedisServer
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

#: Short timeouts, so that some faults last longer.
ENV: Mapping[str, object] = {
    "PARTITIONS": PARTITIONS,
    "PARTITIONS_LEASE_SECONDS": LEASE_SECONDS,
    "PARTITIONS_DEPLOY_WAIT_SECONDS": 0,
    "PARTITIONS_REDIS_TIMEOUT_SECONDS": 2,
}

#: An operator that waits for a paused server would delay the schedule.
IMPATIENT: Mapping[str, object] = {"PARTITIONS_REDIS_TIMEOUT_SECONDS": 0.25}

#: Given to the workers in turn. Small, so that there are many commits; different, so that the next owner of a queue reads
#: other batches than the previous one.
BATCH_MESSAGES = (40, 5, 15)

#: Longer than the last attempts of a worker that is stopped while the server is unreachable.
LEAVE_SECONDS = 40.0
#: A group that makes no progress for this long, without any fault, hangs. Longer than a lease, a timeout, a retry and an
#: `eta` together.
STUCK_SECONDS = 30.0

#: What happened to a worker → a part of its log message.
NOTICES = {
    "batches left to another worker": "another worker has taken over",
    "batches repeated": "changed since this worker read it",
    "messages that could not be interrupted": "replacing this process",
    "servers that did not answer": "cannot use Redis yet (",
}

#: The time of a log line that says that a worker lost or reloaded a partition. Celery's logs are in local time.
DISTURBED = re.compile(r"^\[([\d-]+ [\d:]+),\d+: .*(?:has taken over|reloading it|partitions held|replacing this process|Redis error)", re.MULTILINE)

#: Unexpected errors in a worker's log. A worker logs an unreachable server as a warning; Celery's own consumer logs an error,
#: which is excluded here, and so are expected errors about messages.
OWN_ERROR = re.compile(r"(ERROR|CRITICAL)/\S+ (?!consumer: Cannot connect to redis|partition \S+ cannot claim it \(.*(?:does not answer|Timeout|onnection|is down|moves from)|.*replacing this process|dead letter |.* of key '.*; no retry is left).*")


class Stage:
    """As a context manager: everything runs inside the block and is removed at its end. Its files are in `directory`.

    The server acknowledges only what is on its disk, and keeps every command it ever received: the whole history of a
    failed run, unless it is told not to (`keeps_all`): reading that takes a server minutes after a long run. `engine`: more environment variables
    for the workers, which `tests.faults.engines` reads.
    """

    def __init__(self, directory: Path, seed: int, engine: Mapping[str, str], *, keeps_all: bool = True) -> None:
        self.directory, self.seed, self.engine, self.keeps_all = directory, seed, engine, keeps_all
        self.notes, self.records = directory / "notes", directory / "records"
        self.workers: dict[int, WorkerProcess] = {}
        #: Workers that a message killed and that were replaced.
        self.retired: list[WorkerProcess] = []
        #: Workers that were stopped or killed on purpose.
        self.ended: set[int] = set()
        self.faults: list[Fault] = []
        #: Descriptions of what workers should not have done.
        self.complaints: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        try:
            self.server = enter(
                RedisServer(appendonly=True, appendfsync="always", config={"auto-aof-rewrite-percentage": "0" if self.keeps_all else "100"})
            )
            self.lines = [enter(Proxy(self.server.host, self.server.port)) for _ in range(LINES)]
            self.env = {**ENV, **self.start_cluster(enter)}
            self.producers_line = enter(Proxy(self.server.host, self.server.port))
            #: The test's own direct connection.
            self.live = enter(LiveGroup(self.server.url(), self.directory, **self.env, **self.engine))
            self.operator = Operator(enter(LiveGroup(self.server.url(), self.directory, **{**self.env, **IMPATIENT})))
            self.producers = []
            for number in range(PRODUCERS):
                live = enter(LiveGroup(self.producers_line.url(), self.directory, **self.env))
                live.group.check()
                self.producers.append(Producer(number, self.seed, live))
            #: A direct connection: a message waits for workers, not for the producers' line.
            self.prober = Prober(self.seed, enter(LiveGroup(self.server.url(), self.directory, **{**self.env, **IMPATIENT})))
            for number in range(WORKERS):
                self.start_worker(number)
            for worker in self.workers.values():
                worker.wait_ready()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for producer in (*self.producers, self.prober):
                if producer.is_alive():
                    producer.end()
        finally:
            self._stack.close()

    def start_cluster(self, enter: Callable[[Any], Any]) -> Mapping[str, object]:
        """Start the partitions' own servers, if there are any. Returns more settings."""
        return {}

    def folders(self) -> Mapping[str, Path]:
        """The servers' files."""
        return {"server": self.server.directory}

    def start_worker(self, number: int) -> WorkerProcess:
        self.workers[number] = self.live.start_worker(
            *("-n", node_of(number)),
            module=application.__name__,
            REDIS_URL=self.lines[number % LINES].url(),
            **{"CHAOS_NOTES": self.notes, recorder.PATH: self.records},
            PARTITIONS_BATCH_MESSAGES=BATCH_MESSAGES[number % len(BATCH_MESSAGES)],
        )
        return self.workers[number]

    def revive(self) -> list[int]:
        """Restart each worker that a message killed, with the same number. Returns their numbers.

        A worker that ended for any other reason becomes a complaint.
        """
        revived = []
        for number, worker in list(self.workers.items()):
            if number in self.ended or worker.running:
                continue
            code = worker.wait()
            if code == EXIT_CODE:
                self.retired.append(worker)
                self.start_worker(number)
                revived.append(number)
            else:
                self.ended.add(number)
                self.complaints.append(f"worker {number} exited unexpectedly with {code} ({worker.log_path.name})")
        return revived

    def calm(self) -> None:
        """Cancel the faults that are prepared and have not happened, and undo the operator's actions."""
        for fault in self.faults:
            fault.cancel()
        Operator(self.live).settle(list(self.workers))

    def end_producers(self) -> None:
        for producer in (*self.producers, self.prober):
            producer.end()

    def drain(self) -> None:
        """Wait until no message is queued, parked or delayed, and no key waits for its turn. Raises `AssertionError` if there is no progress."""
        while waiting := self.waiting():
            wait_until(
                lambda: self.revive() or self.waiting() != waiting,
                STUCK_SECONDS,
                message=f"no progress with (queued, parked, running, delayed, processed) {waiting}",
            )

    def share_out(self) -> None:
        """Wait until every partition has an owner, in fair shares. Raises `AssertionError` on a timeout."""
        workers = len(self.workers.keys() - self.ended)
        self.live.wait_owned(by=min(workers, len(self.live.owners())), timeout=STUCK_SECONDS)

    def waiting(self) -> list[tuple[int, int, int, int, int]]:
        """The queued, parked, running, delayed and processed counts of each partition; empty if no partition has work."""
        status = self.live.group.status()
        busy = any(row.length or row.parked or row.running or row.delayed for row in status)
        return [(row.length, row.parked, row.running, row.delayed, row.processed) for row in status] if busy else []

    def noticed(self) -> dict[str, int]:
        """How often the workers logged each of `NOTICES`: shows whether the faults hit anything."""
        log = "".join(worker.log() for worker in (*self.workers.values(), *self.retired))
        return {what: log.count(text) for what, text in NOTICES.items()}

    def disturbances(self) -> list[tuple[float, float]]:
        """When workers lost or reloaded a partition. On a busy machine that happens without a fault, because the leases are short."""
        log = "".join(worker.log() for worker in (*self.workers.values(), *self.retired))
        times = [datetime.strptime(text, "%Y-%m-%d %H:%M:%S").timestamp() for text in DISTURBED.findall(log)]
        return [(at, at + 1) for at in times]

    def end_workers(self) -> None:
        """Stop the remaining workers. Add complaints about what any worker of the run should not have done."""
        self.revive()
        for worker in self.workers.values():
            worker.terminate()
        for number, worker in self.workers.items():
            try:
                worker.wait(LEAVE_SECONDS)
            except AssertionError:
                self.complaints.append(f"worker {number} does not exit ({worker.log_path.name})")
        for worker in (*self.workers.values(), *self.retired):
            errors = {found.group() for found in OWN_ERROR.finditer(worker.log())}
            self.complaints += [f"{worker.log_path.name}: {error}" for error in sorted(errors)]
