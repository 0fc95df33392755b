"""A partition group with real workers, seen from outside: send messages, read states and status, wait for changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import redis
from celery import Celery

from celery_partitions import StateComputation
from celery_partitions.admin.status import PartitionStatus
from celery_partitions.producer.bulk import send_many
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import declared
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions_config.celeryconfig import celery_options
from celery_partitions_config.resolution import from_environment
from tests.fundamentals import application
from tests.support.apps import close_app
from tests.support.environment import PARTITIONS
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

#: Longer than a test's lease, the start of a worker on a busy machine, and a test's work together.
PATIENCE_SECONDS = 60.0

#: The tests' workers need not know each other.
QUICK = ("--without-gossip", "--without-mingle")


class LiveGroup:
    """One group in one database. `env` is the environment of its workers; this process takes the same settings from it.

    As a context manager its workers are killed at the end. `print_logs` is for the fixture of a failing test.
    """

    def __init__(self, url: str, directory: Path, **env: object) -> None:
        self.env = {"REDIS_URL": url, "PARTITIONS": str(PARTITIONS), "PARTITIONS_DEPLOY_WAIT_SECONDS": "0", **{name: str(value) for name, value in env.items()}}
        self.settings = from_environment(self.env)
        self.app = Celery("outside", set_as_current=False)
        self.app.config_from_object(celery_options(self.settings))
        self.installation = Installation(self.app, self.settings, declared, by_default=False)
        self.app.conf.task_routes = [self.installation.route]
        self.group = self.installation.group
        self.names = self.group.names
        self.client: redis.Redis = self.group.client
        self.workers: list[WorkerProcess] = []
        self._directory = directory
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        close_app(self.app)
        self.client.close()

    def start_worker(self, *arguments: str, module: str = application.__name__, **env: object) -> WorkerProcess:
        """Start one more worker. It is not ready yet when this returns. `QUICK` saves the second that mingling takes."""
        text = {name: str(value) for name, value in env.items()}
        worker = WorkerProcess(module, *QUICK, *arguments, directory=self._directory, env={**self.env, **text})
        self.workers.append(self._stack.enter_context(worker))
        return worker

    def start_workers(self, count: int, **env: object) -> list[WorkerProcess]:
        """Start several workers at once. Wait until all are ready and every partition has an owner."""
        workers = [self.start_worker(**env) for _ in range(count)]
        for worker in workers:
            worker.wait_ready()
        self.wait_owned(by=len([worker for worker in self.workers if worker.running]))
        return workers

    def print_logs(self) -> None:
        for worker in self.workers:
            print(f"--- {worker.log_path.name}\n{worker.log_tail()}")

    # Sending.

    def send(self, computation: StateComputation[Any, Any, Any], messages: Iterable[object]) -> int:
        return send_many(self.installation, computation.computation, messages, progress=False)

    def send_task(self, name: str, *args: object, **options: Any) -> str:
        """Send as any Celery producer with the router does. Returns the message id."""
        return str(self.app.send_task(name, args=args, **options).id)

    # Reading and waiting.

    def numbers(self, computation: StateComputation[Any, Any, Any]) -> dict[str, list[int]]:
        """Each key's state: the history of its numbers."""
        states, declared = self.group.states, computation.computation
        found = states.get_many(declared, list(states.keys(declared.name)))
        return {key: state.numbers for key, state in found.items()}

    def numbers_of(self, computation: StateComputation[Any, Any, Any], key: str) -> list[int]:
        state = self.group.states.get(computation.computation, key)
        return [] if state is None else list(state.numbers)

    def status(self) -> dict[str, PartitionStatus]:
        return {row.queue: row for row in self.group.status()}

    def processed(self) -> int:
        return sum(row.processed for row in self.group.status())

    def owners(self) -> dict[str, str | None]:
        return {row.queue: row.owner for row in self.group.status()}

    def dead_letters(self) -> list[DeadLetter]:
        return list(self.group.dead_letters.all())

    def dead_letter_of(self, message_id: str) -> DeadLetter:
        """Wait for the dead letter of a message, and return it."""
        return wait_until(
            lambda: next((dead_letter for dead_letter in self.dead_letters() if dead_letter.message_id == message_id), None),
            PATIENCE_SECONDS,
            message="no dead letter",
        )

    def witnessed(self) -> list[str]:
        """What the computations of `application` appended to `WITNESSED` while they ran, in order: effects outside the state."""
        return [line.decode() for line in self.client.lrange(application.WITNESSED, 0, -1)]

    def wait_witnessed(self, line: str) -> None:
        wait_until(lambda: line in self.witnessed(), PATIENCE_SECONDS, message=f"{line!r} was not appended to the list of witnesses")

    def wait_owned(self, by: int, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait until every partition has an owner, there are `by` owners, and their shares differ by at most one."""

        def fair() -> bool:
            owners = self.owners()
            held = {owner: list(owners.values()).count(owner) for owner in owners.values()}
            return None not in held and len(held) == by and max(held.values()) - min(held.values()) <= 1

        wait_until(fair, timeout, message="the partitions are not shared evenly")

    def wait_drained(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait until no message is queued, parked or delayed."""
        wait_until(
            lambda: not any(row.length or row.parked or row.running or row.delayed for row in self.group.status()),
            timeout,
            message="messages are still queued, parked or delayed",
        )


@contextmanager
def live_groups(directory: Path, **defaults: object) -> Iterator[Callable[..., LiveGroup]]:
    """A function that makes groups on a server: `make(url, PARTITIONS=2)`. At the end their workers are killed, and their logs printed."""
    made: list[LiveGroup] = []
    with ExitStack() as stack:

        def make(url: str, **env: object) -> LiveGroup:
            made.append(stack.enter_context(LiveGroup(url, directory, **{**defaults, **env})))
            return made[-1]

        yield make
    for live in made:
        live.print_logs()
