"""Child processes that end when this process does, however this process ends.

`lifeline` runs a command under a keeper: this same file, run as a script. The keeper reads a pipe whose other end only
this process holds. The pipe closes when the block is left, and also when this process is killed; then the keeper
sends the command SIGTERM, SIGKILL if that is not enough, and removes the scratch folder. Linux and macOS.
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

#: How long the keeper itself may take past the command's own grace: only to remove a folder.
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
    """Run `command` for as long as the block, in a session of its own: a Ctrl-C here reaches it only as SIGTERM.

    Yields the keeper, which ends when the command ends, with its exit code. `grace_seconds` lie between SIGTERM and
    SIGKILL. `output` takes stdout and stderr (None: ours). `scratch` is a folder that is removed with the command.
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
    """Make SIGTERM and SIGHUP leave all blocks, as Ctrl-C does, so that what they started is ended.

    Ctrl-C itself is set too: a shell starts background commands with it ignored.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def _keep(grace_seconds: float, scratch: str, command: Sequence[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  what `lifeline` was given

    def end_with_parent() -> None:
        # Not sys.stdin: its lock, held here while the interpreter exits, would abort it.
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
