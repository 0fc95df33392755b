"""`python -m celery_partitions.demo [--keep]`: starts a server if needed, then runs the demo or the processes for development.

The demo runs in a child process: the Celery app reads the server's address when it is imported, and the address of an embedded
server is known only once it has started.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from celery_partitions.demo.processes import DemoError
from celery_partitions.testing.cluster import embedded_cluster
from celery_partitions.testing.lifeline import leave_on_signals, lifeline
from celery_partitions.testing.server import ServerError, embedded_server, free_port
from celery_partitions_config.resolution import from_environment
from celery_partitions_config.settings import SettingsError

REDIS_PORT = 6379
FLOWER_PORT = 5555
#: Longer than the demo needs to end its own processes.
GRACE_SECONDS = 40.0


def main() -> int:
    """Run the demo and return its exit code. With `--keep`, Ctrl-C is the normal end."""
    parser = argparse.ArgumentParser(prog="python -m celery_partitions.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the processes running (make dev)")
    keep = parser.parse_args().keep
    leave_on_signals()
    try:
        with ExitStack() as stack:
            environment = _environment(os.environ, own_group=not keep)
            embedded = not environment.get("REDIS_URL")
            if embedded:
                # In development other shells expect Redis on its usual port.
                port = free_port(REDIS_PORT if keep else None)
                environment["REDIS_URL"] = stack.enter_context(embedded_server(environment, port))
            if environment.get("CLUSTER"):
                environment["PARTITIONS_URL"] = stack.enter_context(embedded_cluster(environment, _cluster_servers(environment["CLUSTER"])))
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
    """The environment of all processes: ours, with this Python's commands first on PATH and Flower on this machine only.

    On a configured server the demo uses its own partition group and writes nothing else. Raises `SettingsError` for an invalid
    variable, `DemoError` for an invalid PORT.
    """
    partitions = from_environment(given).partitions
    environment = {
        "FLOWER_ADDRESS": "127.0.0.1",
        # Celery would prefer CELERY_BROKER_URL as the broker.
        **{name: value for name, value in given.items() if name != "CELERY_BROKER_URL"},
        "PORT": _flower_port(given.get("PORT", "")),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), given.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }
    if own_group and environment.get("REDIS_URL"):
        environment.setdefault("PARTITIONS_GROUP", f"demo-{partitions}")
    return environment


def _cluster_servers(wanted: str) -> int:
    if not wanted.isdigit():
        raise DemoError(f"CLUSTER={wanted} is not usable: set it to a number of servers, for example 3")
    return int(wanted)


def _flower_port(wanted: str) -> str:
    """The requested port, which must be free. Without one: Flower's default port, or a free one."""
    if not wanted:
        return str(free_port(FLOWER_PORT))
    if not wanted.isdigit() or not 0 < int(wanted) < 65_536 or free_port(int(wanted)) != int(wanted):
        raise DemoError(f"PORT={wanted} is not usable: set PORT to a free port number")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
