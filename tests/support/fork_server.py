"""Run as a script, this file starts Python processes by forking itself, after it has imported everything: a tenth of the work of a fresh interpreter.

A forked process is like a fresh `python -m MODULE WORDS`: it has its own session, environment, working directory, import path and standard
streams, and no module of the tests. Standard input of the server is one end of a socket. Each request is one packet: JSON, and three
descriptors if it starts a process. The server has no threads, because it forks. `tests/support/python_process.py` is the other end.
"""

from __future__ import annotations

import atexit
import codecs
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from typing import Any

#: What workers, commands, Flower, sources and sinks import before they read a setting or a user's module. None reads an environment
#: variable when it is imported.
MODULES = (
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
    "celery_partitions.cli.commands",
    "celery_partitions.cli.ends",
    "celery_partitions.cli.status",
    "celery_partitions.cli.top",
    "celery_partitions.cli.flower",
    "celery_partitions.dashboard.loader",
    "celery_partitions.dashboard.urls",
    "celery_partitions.wallaroo.runner",
    "celery_partitions.wallaroo.loader",
    "flower.command",
)
#: Longer than a request with its environment.
PACKET_BYTES = 1 << 20


def _serve() -> None:
    """Answer each packet from standard input, until its other end is closed."""
    del sys.path[0]  # the folder of this file, with other modules that are not meant
    for name in MODULES:
        importlib.import_module(name)
    conversation = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends pytest, which ends this server
    gc.collect()
    gc.freeze()
    running: set[int] = set()
    while True:
        packet, descriptors, _, _ = socket.recv_fds(conversation, PACKET_BYTES, 3)
        if not packet:
            break
        request = json.loads(packet)
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
                _become(request, descriptors)
            running.add(answer)
            for descriptor in descriptors:
                os.close(descriptor)
        conversation.send(json.dumps(answer).encode())
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it may not be the leader of its group yet
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, 64)
        os.environ.clear()
        os.environ.update(request["environment"])
        _open_streams()
        time.tzset()
        os.chdir(request["directory"])
        # As `python -m` does in that folder: first the folder itself, then PYTHONPATH.
        sys.path[:0] = [request["directory"], *request["path"]]
        module, words = request["module"], request["words"]
        sys.argv = [module, *words]
        sys.orig_argv = [sys.executable, "-m", module, *words]  # a worker may restart itself with these
        gc.enable()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
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


def _open_streams() -> None:
    """Give the process new standard streams: the environment and the descriptors decide their encoding and buffering."""
    encoding, unbuffered = os.environ.get("PYTHONIOENCODING"), bool(os.environ.get("PYTHONUNBUFFERED"))

    def opened(number: int, old: Any, line_buffering: bool) -> io.TextIOWrapper:
        mode, buffering = ("rb", -1) if number == 0 else ("wb", 0 if unbuffered else -1)
        raw = open(number, mode, buffering, closefd=False)  # noqa: SIM115  open as long as the process
        errors = "strict" if encoding and number < 2 else old.errors
        name = codecs.lookup(encoding).name if encoding else old.encoding
        return io.TextIOWrapper(raw, name, errors, line_buffering=line_buffering and not unbuffered, write_through=unbuffered)

    sys.stdin = sys.__stdin__ = opened(0, sys.stdin, False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = opened(1, sys.stdout, os.isatty(1))  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = opened(2, sys.stderr, True)  # type: ignore[misc]


if __name__ == "__main__":
    _serve()
