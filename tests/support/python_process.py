"""Starts `python -m MODULE WORDS` as a child process. If possible it is forked by `fork_server.py`; else it is a fresh interpreter."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

#: A process that has loaded Apple's libraries can't be forked.
CAN_FORK = sys.platform == "linux"
#: The interpreter reads these when it starts, so a process with one of them is a fresh interpreter.
FRESH_VARIABLES = frozenset(
    {"PYTHONDEVMODE", "PYTHONFAULTHANDLER", "PYTHONHASHSEED", "PYTHONMALLOC", "PYTHONWARNINGS", "COVERAGE_PROCESS_START"}
)
#: How often `wait` checks the process.
POLL_SECONDS = 0.01

Target = int | IO[bytes]


def start_python(
    module: str,
    *words: str,
    directory: Path,
    environment: Mapping[str, str],
    stdin: Target = subprocess.DEVNULL,
    stdout: Target = subprocess.DEVNULL,
    stderr: Target = subprocess.DEVNULL,
) -> ForkedProcess | subprocess.Popen[bytes]:
    """Start the module in its own session, with exactly this environment. Targets are those of `subprocess.Popen`."""
    if CAN_FORK and not FRESH_VARIABLES & environment.keys():
        return _fork_server().start(module, words, directory, environment, (stdin, stdout, stderr))
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=directory,
        env=dict(environment),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def run_python(
    module: str, *words: str, directory: Path, environment: Mapping[str, str], timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run the module to its end. Returns its exit code and what it printed. Raises `subprocess.TimeoutExpired`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        process = start_python(module, *words, directory=directory, environment=environment, stdout=out, stderr=error)
        with process:
            try:
                code = process.wait(timeout)
            finally:
                process.kill()
        out.seek(0)
        error.seek(0)
        return subprocess.CompletedProcess([module, *words], code, out.read().decode(), error.read().decode())


class ForkedProcess:
    """A process of the fork server, with the attributes of `subprocess.Popen` that the tests use."""

    def __init__(self, server: ForkServer, pid: int, stdout: IO[bytes] | None, stderr: IO[bytes] | None) -> None:
        self._server = server
        self.pid = pid
        self.stdout, self.stderr = stdout, stderr
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()

    def poll(self) -> int | None:
        """The exit code (negative: the signal), None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process ends, and return its exit code. Raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(POLL_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        """Does nothing if the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The server process, and the one connection to it. One packet per request, one per answer."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._owner = os.getpid()
        self._lock = threading.Lock()
        script = Path(__file__).with_name("fork_server.py")
        # In its own session: a signal to pytest's process group does not reach it, so it can still end its processes.
        self._process = subprocess.Popen([sys.executable, script], stdin=theirs, cwd=script.parents[2], start_new_session=True)
        theirs.close()
        atexit.register(self.close)

    def start(
        self, module: str, words: tuple[str, ...], directory: Path, environment: Mapping[str, str], targets: tuple[Target, Target, Target]
    ) -> ForkedProcess:
        """Run `python -m module words` in a fork of the server."""
        path = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
        request = {"module": module, "words": words, "directory": str(directory), "environment": dict(environment), "path": path}
        with contextlib.ExitStack() as stack:
            descriptors, ours = [], []
            for target in targets:
                stream = None
                if target == subprocess.PIPE:
                    read, write = os.pipe()
                    stack.callback(os.close, write)
                    stream = os.fdopen(read, "rb")
                    descriptors.append(write)
                elif target == subprocess.DEVNULL:
                    descriptors.append(null := os.open(os.devnull, os.O_RDWR))
                    stack.callback(os.close, null)
                elif target == subprocess.STDOUT:
                    descriptors.append(descriptors[1])
                else:
                    descriptors.append(target if isinstance(target, int) else target.fileno())
                ours.append(stream)
            return ForkedProcess(self, self.ask(request, descriptors), *ours[1:])

    def ask(self, request: dict[str, Any], descriptors: list[int] | None = None) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors or [])
            answer = self._socket.recv(1024)
        if not answer:
            raise RuntimeError(f"the fork server has ended with {self._process.poll()}")
        return json.loads(answer)

    def close(self) -> None:
        if os.getpid() == self._owner:
            self._socket.close()
            self._process.wait()


@functools.cache
def _fork_server() -> ForkServer:
    """One fork server per pytest process, started with its first process."""
    return ForkServer()
