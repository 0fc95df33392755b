"""Runs a command on a pseudo-terminal, where it can ask."""

from __future__ import annotations

import os
import pty
from pathlib import Path

from tests.support.python_process import start_python
from tests.support.worker import ROOT


def answer(reply: str, *words: str, url: str, directory: Path, module: str = "tests.cli.declared_app") -> tuple[int, str]:
    """Run `celery -A module partitions …` and answer its first question. Returns the exit code and the screen's text."""
    environment = {**os.environ, "REDIS_URL": url, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "TERM": "dumb"}
    terminal, theirs = pty.openpty()
    command = ("celery", "-A", module, "partitions", *words)
    child = start_python(*command, directory=directory, environment=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
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
    return child.wait(), screen.decode(errors="replace")
