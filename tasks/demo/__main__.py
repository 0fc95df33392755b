"""`python -m celery_partitions.demo [--keep]`: sees to a server, then runs the demo, or the processes for development.

The demo itself runs in a child process: the Celery app reads the server's address when it is imported, and the
address of an embedded server is known only now.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from celery_partitions.demo.processes import DemoError
from celery_partitions.testing.lifeline import leave_on_signals, lifeline
from celery_partitions.testing.server import ServerError, embedded_server, free_port
from celery_partitions_config.settings import Settings, SettingsError

REDIS_PORT = 6379
FLOWER_PORT = 5555
#: Longer than the demo needs to end its own processes.
GRACE_SECONDS = 40.0


def main() -> int:
    """The exit code of the demo; a Ctrl-C ends `--keep` well."""
    parser = argparse.ArgumentParser(prog="python -m celery_partitions.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the processes running (make dev)")
    keep = parser.parse_args().keep
    leave_on_signals()
    try:
        with ExitStack() as stack:
            environment = _environment(os.environ, own_group=not keep)
            embedded = not environment.get("REDIS_URL")
            if embedded:
                # In development other shells find it where Redis always is.
                port = free_port(REDIS_PORT if keep else None)
                environment["REDIS_URL"] = stack.enter_context(embedded_server(environment, port))
            words = ["celery_partitions.demo.keep" if keep else "celery_partitions.demo.show"]
            if keep and embedded:
                words.append("--embedded")
            demo = stack.enter_context(
                lifeline([sys.executable, "-m", *words], environment=environment, grace_seconds=GRACE_SECONDS)
            )
            return demo.wait()
    except (DemoError, ServerError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if keep else 130


def _environment(given: Mapping[str, str], *, own_group: bool) -> dict[str, str]:
    """What all processes run with: ours, this Python's commands first on PATH, Flower on this machine only.

    On a server that was there before, the demo uses a partition group of its own, and leaves only that there. Raises
    `SettingsError` for a variable that can't be used, `DemoError` for a PORT that can't.
    """
    partitions = Settings.from_environment(given).partitions
    environment = {
        "FLOWER_ADDRESS": "127.0.0.1",
        # Celery would take it for the broker before anything else.
        **{name: value for name, value in given.items() if name != "CELERY_BROKER_URL"},
        "PORT": _flower_port(given.get("PORT", "")),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), given.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }
    if own_group and environment.get("REDIS_URL"):
        environment.setdefault("PARTITIONS_GROUP", f"demo-{partitions}")
    return environment


def _flower_port(wanted: str) -> str:
    """The port that was asked for, and then no other; else Flower's own, or a free one."""
    if not wanted:
        return str(free_port(FLOWER_PORT))
    if not wanted.isdigit() or not 0 < int(wanted) < 65_536 or free_port(int(wanted)) != int(wanted):
        raise DemoError(f"PORT={wanted} can't be used: a port is wanted on which nothing listens yet")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
