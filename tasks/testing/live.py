"""Real worker processes for a test. Used like a harness, but the workers can be killed."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from celery import Celery

from celery_partitions.producer.bulk import send_many
from celery_partitions.producer.task import ComputationTask
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import add_installation, declared, remove_installation
from celery_partitions.testing.lifeline import lifeline
from celery_partitions.testing.view import Parts, View
from celery_partitions_config.celeryconfig import celery_options
from celery_partitions_config.resolution import from_environment

T = TypeVar("T")

#: Longer than starting several workers on a busy machine, plus the lease of a killed worker.
PATIENCE_SECONDS = 60.0
#: Longer than a worker needs to commit its batch.
GRACE_SECONDS = 10.0
_EVERY_SECONDS = 0.02
_TAIL_CHARACTERS = 6_000


class Worker:
    """One `celery -A MODULE worker` process."""

    def __init__(self, keeper: subprocess.Popen[bytes], log: Path) -> None:
        self._keeper, self.log = keeper, log

    @property
    def running(self) -> bool:
        return self._keeper.poll() is None

    def kill(self) -> None:
        """Send SIGKILL to the process and its children. Does nothing if it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._keeper.pid, signal.SIGKILL)
        self._keeper.wait()

    def log_tail(self) -> str:
        """The last lines of its log."""
        return self.log.read_text(errors="replace")[-_TAIL_CHARACTERS:]


class PartitionWorkers(View):
    """Workers of one module on one server, as a context manager.

    Inside the `with` block, computations and sources of this process use that server: `prices.delay(…)` and `prices.send_many(…)`
    send to it, and `update_stock.state("AAPL")` reads from it. `environment`: settings of the workers and of this process, by
    variable name. `PARTITIONS_LEASE_SECONDS` defaults to 2 here, so that a killed worker's partitions soon have a new owner.
    `root`: the workers' working directory. They import from the same paths as this process.
    """

    def __init__(
        self, module: str, url: str, *, root: Path, logs: Path, environment: Mapping[str, Any] | None = None
    ) -> None:
        self.module, self.url, self.root, self.logs = module, url, root, logs
        importlib.import_module(module)
        given = {"PARTITIONS_LEASE_SECONDS": 2, "PARTITIONS_URL": "", **(environment or {}), "REDIS_URL": url}
        self._environment = {**os.environ, **{name: str(value) for name, value in given.items()}}
        self._environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(root), *filter(None, sys.path)]))
        settings = from_environment(self._environment)
        self._app = Celery("test", set_as_current=False)
        self._app.config_from_object(celery_options(settings))
        super().__init__(Parts.of_process(), Installation(self._app, settings, declared, by_default=False))
        self._app.conf.task_routes = [self.installation.route]
        self.workers: list[Worker] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        add_installation(self.installation, ComputationTask)
        return self

    def __exit__(self, *_: object) -> None:
        remove_installation(self.installation)
        for worker in self.workers:
            worker.kill()
        self._stack.close()
        self._app.close()
        self.installation.group.client.close()

    def start(self, count: int = 1) -> list[Worker]:
        """Start more workers, and wait until all running workers share the partitions. Raises `AssertionError` with their logs."""
        started = [self._start_one() for _ in range(count)]
        self.wait_shared()
        return started

    def _start_one(self) -> Worker:
        log = self.logs / f"worker-{len(self.workers) + 1}.log"
        command = [sys.executable, "-m", "celery", "-A", self.module, "worker", "-l", "INFO"]
        command += ["-n", f"worker-{len(self.workers) + 1}@%h", "--without-gossip", "--without-mingle"]
        with log.open("wb") as output:
            keeper = self._stack.enter_context(
                lifeline(command, environment=self._environment, grace_seconds=GRACE_SECONDS, folder=self.root, output=output)
            )
        self.workers.append(Worker(keeper, log))
        return self.workers[-1]

    def wait_shared(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait until every partition has an owner, and every running worker owns one (as far as there are enough partitions)."""
        group = self.installation.group

        def is_shared() -> bool:
            owners = [row.owner for row in group.status()]
            running = sum(worker.running for worker in self.workers)
            if not running:
                raise AssertionError(f"all workers have ended\n{self.log_tails()}")
            return None not in owners and len(set(owners)) == min(running, len(owners))

        self.wait_until(is_shared, timeout, "the workers do not share all partitions")

    def wait_idle(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait until no message is queued or delayed, and no key is parked."""
        status = self.installation.group.status
        self.wait_until(
            lambda: not any(row.length or row.delayed or row.parked or row.running for row in status()), timeout, "messages are still waiting"
        )

    def wait_until(self, condition: Callable[[], T], timeout: float = PATIENCE_SECONDS, what: str = "not true") -> T:
        """Wait until the condition is true, and return its value. Raises `AssertionError` with the workers' logs after `timeout` seconds."""
        until = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > until:
                raise AssertionError(f"{what} after {timeout:g} s\n{self.log_tails()}")
            time.sleep(_EVERY_SECONDS)
        return value

    def send(self, message: Any, source: Any = None, message_id: str | None = None) -> None:
        """Send one message. Unlike a harness, does not wait until it is processed."""
        self._send([message], source, message_id)

    def send_many(self, messages: Iterable[Any], source: Any = None) -> None:
        """Send messages in order. Does not wait until they are processed."""
        self._send(messages, source, None)

    def _send(self, messages: Iterable[Any], source: Any, message_id: str | None) -> None:
        id_of = None if message_id is None else lambda _: message_id
        send_many(self.installation, self.source_of(source), messages, progress=False, id_of=id_of)

    def log_tails(self) -> str:
        """The last lines of each worker's log."""
        return "\n".join(f"--- {worker.log.name}\n{worker.log_tail()}" for worker in self.workers)
