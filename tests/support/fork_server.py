"""Starts Celery processes by forking one that has already imported everything: a tenth of the work of a fresh interpreter.

A forked process is like a fresh one: it has its own session, environment, working directory and import path, and no module of the tests.
Run as a script, this file is the server, with one end of a socket as its standard input. It has no threads, because it forks.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

#: What a worker imports before it reads a setting or a user's module. It reads no environment variable when it is imported.
MODULES = (
    "celery.__main__",
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.concurrency.solo",
    "celery.loaders.app",
    "celery.fixups.django",
    "celery.worker.consumer",
    "celery.worker.control",
    "celery.backends.redis",
    "kombu.transport.redis",
    "hiredis",
    "celery_partitions",
    "celery_partitions.install",
    "celery_partitions.worker.bootstep",
)
#: How often `wait` checks the process.
POLL_SECONDS = 0.01


class ForkedProcess:
    """A process of the fork server, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self.pid = pid
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        """The exit code (negative: the signal), None while it runs."""
        if self._exit_code is None:
            self._exit_code = self._server.ask({"poll": self.pid})
        return self._exit_code

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


class ForkServer:
    """The server process, and the one connection to it: one line per request, one per answer."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._owner = os.getpid()
        # In its own session: a signal to pytest's process group does not reach it, so it can still end the workers.
        self._process = subprocess.Popen([sys.executable, __file__], stdin=theirs, cwd=Path(__file__).parents[2], start_new_session=True)
        theirs.close()
        self._stream = ours.makefile("rw")
        ours.close()
        atexit.register(self.close)

    def start(self, words: list[str], *, directory: Path, environment: dict[str, str], python_path: list[str], log: Path) -> ForkedProcess:
        """Run `celery` with these words. Standard output and error go to the end of `log`."""
        log.touch()
        request = {"words": words, "directory": str(directory), "environment": environment, "path": python_path, "log": str(log)}
        return ForkedProcess(self, self.ask(request))

    def ask(self, request: dict[str, Any]) -> Any:
        print(json.dumps(request), file=self._stream, flush=True)
        line = self._stream.readline()
        if not line:
            raise RuntimeError(f"the fork server has ended with {self._process.poll()}")
        return json.loads(line)

    def close(self) -> None:
        if os.getpid() == self._owner:
            with contextlib.suppress(OSError):
                self._stream.close()
            self._process.wait()


def _serve() -> None:
    """Answer each line of standard input, until it ends."""
    for name in MODULES:
        importlib.import_module(name)
    conversation = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    stream = conversation.makefile("rw")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends pytest, which ends this server
    gc.collect()
    gc.freeze()
    running: set[int] = set()
    for line in stream:
        request = json.loads(line)
        answer: int | None = None
        if (asked := request.get("poll")) is not None:
            pid, status = os.waitpid(asked, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            if pid:
                running.discard(pid)
        else:
            answer = os.fork()
            if answer == 0:
                conversation.detach()
                _become(request)
            running.add(answer)
        print(json.dumps(answer), file=stream, flush=True)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it may not be the leader of its group yet
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _become(request: dict[str, Any]) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, 64)
        os.environ.clear()
        os.environ.update(request["environment"])
        time.tzset()
        os.chdir(request["directory"])
        # As `python -m celery` does in that folder: first the folder itself, then PYTHONPATH. `sys.path[0]` was the folder of this file.
        sys.path[:1] = [request["directory"], *request["path"]]
        sys.argv = ["celery", *request["words"]]
        sys.orig_argv = [sys.executable, "-m", "celery", *request["words"]]  # a worker may restart itself with these
        gc.enable()
        from celery.__main__ import main

        code = int(main() or 0)  # type: ignore[func-returns-value]
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        # As an interpreter does at its end: wait for non-daemon threads, run exit handlers, flush buffers.
        with contextlib.suppress(BaseException):
            import threading

            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
