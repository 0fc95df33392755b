"""`make dev`: the Procfile's processes, kept running with their output on the screen until Ctrl-C.

Runs in a process whose environment names the server (`celery_partitions.demo.__main__` sees to that).
"""

from __future__ import annotations

import os
import sys

from celery_partitions.demo.processes import DemoError, flower_answers, running
from celery_partitions.testing.lifeline import leave_on_signals

WORKERS = 3
#: The app that runs when APP names none.
EXAMPLE = "celery_partitions.demo.stocks"
START_SECONDS = 40.0


def main() -> int:
    """Start, say where things are, wait. Returns 1 when the processes end by themselves."""
    leave_on_signals()
    environment = dict(os.environ)
    flower = f"http://127.0.0.1:{environment['PORT']}"
    try:
        with running(environment, {"web": 1, "worker": WORKERS}, app=environment.get("APP") or EXAMPLE) as processes:
            processes.wait_until(lambda: flower_answers(flower), f"Flower answers at {flower}", START_SECONDS)
            print(f"\nFlower:     {flower}\nREDIS_URL={environment['REDIS_URL']}\nCtrl-C stops all.\n")
            processes.keeper.wait()
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    print("The processes have ended.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
