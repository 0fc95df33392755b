"""Child processes that end when this process ends, even by SIGKILL.

`lifeline` runs a command under a keeper process, which is this file run as a script. The keeper reads a pipe whose other end only
this process holds. The pipe closes when the `with` block ends or this process dies. Then the keeper sends the command SIGTERM, and
SIGKILL if that is not enough, and removes the scratch folder. Works on Linux and macOS.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

#: How long the keeper may take after the command's grace period, to remove a folder.
KEEPER_SECONDS = 10.0


@contextmanager
def lifeline(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    grace_seconds: float,
    folder: Path | None = None,
    output: IO[bytes] | None = None,
    scratch: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` until the block ends, in its own session, so that Ctrl-C reaches it only as SIGTERM.

    Yields the keeper, which ends with the command and has its exit code. `grace_seconds`: the time between SIGTERM and SIGKILL.
    `output`: receives stdout and stderr; None: those of this process. `scratch`: a folder that is removed when the command has ended.
    """
    keeper = subprocess.Popen(  # noqa: S603  a command of ours
        [sys.executable, "-P", "-S", __file__, str(grace_seconds), str(scratch or ""), *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield keeper
    finally:
        if keeper.stdin is not None:
            keeper.stdin.close()
        keeper.wait(grace_seconds + KEEPER_SECONDS)


def leave_on_signals() -> None:
    """Make SIGTERM and SIGHUP leave all `with` blocks, as Ctrl-C does, so that child processes are ended.

    Restores Ctrl-C too: a shell starts background commands with SIGINT ignored.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def _keep(grace_seconds: float, scratch: str, command: Sequence[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  what `lifeline` was given

    def end_with_parent() -> None:
        # Not sys.stdin: this thread would hold its lock while the interpreter exits, which aborts the process.
        os.read(0, 1)
        child.terminate()
        try:
            child.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = child.wait()
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_keep(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
