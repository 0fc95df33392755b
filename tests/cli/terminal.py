"""Runs a command on a pseudo-terminal, where it can ask."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

from tests.support.worker import ROOT


def answer(reply: str, *words: str, url: str, directory: Path, module: str = "tests.cli.declared_app") -> tuple[int, str]:
    """Run `celery -A module partitions …` and answer its first question. Returns the exit code and the screen's text."""
    child, terminal = pty.fork()
    if child == 0:
        environment = {**os.environ, "REDIS_URL": url, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "TERM": "dumb"}
        os.chdir(directory)
        os.execve(sys.executable, [sys.executable, "-m", "celery", "-A", module, "partitions", *words], environment)
    screen, replied = b"", False
    try:
        while chunk := os.read(terminal, 65536):
            screen += chunk
            if not replied and b"[y/N]" in screen:
                os.write(terminal, reply.encode() + b"\n")
                replied = True
    except OSError:  # the child has closed the terminal
        pass
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), screen.decode(errors="replace")
