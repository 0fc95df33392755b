"""Runs `python -m celery_partitions.wallaroo` as a child process and tests it through ports, signals and exit code."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.child import ChildProcess
from tests.support.python_process import start_python
from tests.support.server import free_port
from tests.support.tcp import PATIENCE_SECONDS
from tests.support.wait import wait_until
from tests.support.worker import ROOT

APPLICATIONS = Path(__file__).with_name("applications")


class Run(ChildProcess):
    """One run of an application. `inputs`: the number of addresses of `--in`, or their names.

    As a context manager it is killed at the end, and its output is printed.
    """

    def __init__(
        self, module: str, directory: Path, *more: str, inputs: int | tuple[str, ...] = 1, workers: int = 1, out: int | None = None, **env: str
    ) -> None:
        names = [""] * inputs if isinstance(inputs, int) else [f"{name}@" for name in inputs]
        self.ports = [free_port() for _ in names]
        self.out = out or free_port()
        log_path = directory / f"{module}.log"
        command = ["--application-module", module, "--out", f"127.0.0.1:{self.out}", "--workers", str(workers), *more]
        if self.ports:
            command += ["--in", ",".join(f"{name}127.0.0.1:{port}" for name, port in zip(names, self.ports, strict=True))]
        with log_path.open("wb") as log:
            process = start_python(
                *("celery_partitions.wallaroo", *command),
                directory=APPLICATIONS,
                environment={**os.environ, "PYTHONPATH": str(ROOT), "REDIS_URL": "", "PARTITIONS_LEASE_SECONDS": "1", **env},
                stdout=log,
                stderr=log,
            )
        super().__init__("the run", process, log_path)

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.terminate()
            with contextlib.suppress(AssertionError):
                self.wait()
        self.kill()
        print(self.log())

    @contextlib.contextmanager
    def sender(self, number: int = 0) -> Iterator[socket.socket]:
        """A connection to an input, opened as soon as it listens."""

        def connect() -> socket.socket | None:
            assert self.running, self.log()
            with contextlib.suppress(ConnectionRefusedError):
                return socket.create_connection(("127.0.0.1", self.ports[number]), timeout=60)
            return None

        connection = wait_until(connect, PATIENCE_SECONDS, message="the input does not listen")
        assert connection is not None
        with connection:
            yield connection

    def children(self, what: str) -> list[int]:
        """Process ids of the run's `worker`, `source` or `sink` processes."""
        found = []
        for pid, (parent, command) in _processes().items():
            if "celery_partitions.wallaroo.application" in command and what in command and self._is_ours(parent):
                found.append(pid)
        return found

    def _is_ours(self, pid: int) -> bool:
        table = _processes()
        while pid > 1:
            if pid == self.pid:
                return True
            pid = table.get(pid, (0, []))[0]
        return False


def _processes() -> Mapping[int, tuple[int, list[str]]]:
    """Process id → its parent and command line, without processes that only keep another one alive."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found[int(folder.name)] = parent, [] if "lifeline.py" in " ".join(command) else command
    return found
