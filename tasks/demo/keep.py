"""`make dev`: a server, workers and Flower, until Ctrl-C.

Runs in a process whose environment names the server (`celery_partitions.demo.__main__` starts it). While the processes start, their
output goes to a file, so that the addresses are the last lines on the screen. Later output is shown.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

from celery_partitions import app as celery_app
from celery_partitions.demo.processes import ROOT, DemoError, Processes, flower_answers, running
from celery_partitions.testing.lifeline import leave_on_signals
from celery_partitions_config.settings import DEFAULT_REDIS_URL

WORKERS = 3
START_SECONDS = 40.0
#: How long a ping waits for replies. It returns as soon as all workers have answered.
PING_SECONDS = 1.0
#: How often new output of the processes is shown.
TAIL_SECONDS = 0.1
#: The app that runs when APP names none.
EXAMPLE = "celery_partitions.demo.stocks"
LOG = ROOT / ".dev" / "dev.log"


def main() -> int:
    """Start everything, print the addresses, and wait. Returns 1 if a process ends by itself."""
    leave_on_signals()
    console = Console(highlight=False)
    environment = dict(os.environ)
    app = environment.get("APP") or EXAMPLE
    flower = f"http://127.0.0.1:{environment['PORT']}"
    LOG.parent.mkdir(exist_ok=True)
    try:
        with ExitStack() as stack:
            output = stack.enter_context(LOG.open("wb"))
            with console.status(f"Starting {WORKERS} workers and Flower …"):
                workers = stack.enter_context(running(environment, {"worker": WORKERS}, app=app, output=output))
                workers.wait_until(_workers_answer, f"{WORKERS} workers answer", START_SECONDS)
                # After the workers: Flower queries them when it starts, and warns about each query without an answer.
                web = stack.enter_context(running(environment, {"web": 1}, app=app, output=output))
                web.wait_until(lambda: flower_answers(flower), f"Flower answers at {flower}", START_SECONDS)
            console.print(_summary(environment, app, flower, embedded="--embedded" in sys.argv[1:]), markup=False, soft_wrap=True)
            _show_what_follows(LOG, workers, web)
    except DemoError as error:
        print(f"{error}. Output of the processes: {LOG}", file=sys.stderr)
        return 1
    print(f"A process has ended unexpectedly. Its output: {LOG}", file=sys.stderr)
    return 1


def _workers_answer() -> bool:
    return len(celery_app.control.ping(timeout=PING_SECONDS, limit=WORKERS)) >= WORKERS


def _summary(environment: Mapping[str, str], app: str, flower: str, *, embedded: bool) -> str:
    """The addresses, and the commands to type next."""
    url = environment["REDIS_URL"]
    kept = "not kept: this server forgets everything when it stops" if embedded else "kept: it is on your server"
    venv = Path(sys.prefix)
    folder = venv.relative_to(ROOT) if venv.is_relative_to(ROOT) else venv
    commands = [f". {folder}/bin/activate; export APP={app}"]
    if url != DEFAULT_REDIS_URL:
        commands.append(f"export REDIS_URL={shlex.quote(url)}")
    if servers := environment.get("PARTITIONS_URL"):
        commands.append(f"export PARTITIONS_URL={shlex.quote(servers)}")
    commands.append("celery partitions status")
    if app == EXAMPLE:
        message = '{"symbol": "AAPL", "price": 191.2}'
        commands.append(f"""echo '{message}' | celery partitions send "update stock" - --format jsonl""")
        commands.append('celery partitions state "update stock" AAPL')
    lines = [
        f"{WORKERS} workers run {app}.",
        "",
        f"  Dashboard   {flower}/partitions",
        f"  Redis       {url}",
        *([f"  Partitions  {servers}"] if servers else []),
        f"  State       {kept}",
        f"  Log         {LOG.relative_to(ROOT)}",
        "",
        f"Type this in another terminal, in {ROOT}:",
        "",
        *(f"  {command}" for command in commands),
        "",
        "Ctrl-C stops everything. New lines of the log follow.",
    ]
    return "\n".join(lines)


def _show_what_follows(path: Path, *processes: Processes) -> None:
    """Copy new output in `path` to the screen until one of the processes ends."""
    with path.open("rb") as log:
        log.seek(0, os.SEEK_END)
        while all(one.keeper.poll() is None for one in processes):
            _copy(log)
            time.sleep(TAIL_SECONDS)
        _copy(log)


def _copy(log: BinaryIO) -> None:
    if new := log.read():
        sys.stdout.buffer.write(new)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
