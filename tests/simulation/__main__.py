"""Run schedules: `python -m tests.simulation --seed 7` shows one step by step, `--schedules 5000` searches for one that fails.

Prints only what was found. Exits with 1 if a promise was broken. `--engine NAME` breaks the engine first.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter

from tests.simulation.engines import broken
from tests.simulation.schedule import ACTIONS, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="one schedule, with everything that happens in it")
    parser.add_argument("--schedules", type=int, default=2000, help="so many schedules, from --first on (2000)")
    parser.add_argument("--first", type=int, help="the first of their seeds (random)")
    parser.add_argument("--engine", help="an engine that is broken on purpose, by its name in tests.simulation.engines")
    parser.add_argument("--focus", choices=ACTIONS, help="what is to happen more than all else")
    parser.add_argument("--resizes", action="store_true", help="operators also resize the group")
    parser.add_argument("--apart", action="store_true", help="no script sees two partitions, as on several servers")
    asked = parser.parse_args()
    edits = broken(asked.engine) if asked.engine else {}
    more = {"resizes": asked.resizes, "apart": asked.apart}
    if asked.seed is not None:
        return show(asked.seed, edits, asked.focus, **more)
    first = random.randrange(10**9) if asked.first is None else asked.first
    return search(range(first, first + asked.schedules), edits, asked.focus, **more)


def show(seed: int, edits: dict[str, str], focus: str | None, **more: bool) -> int:
    """Run one schedule and print its trace."""
    trace: list[str] = []
    try:
        report = run(seed, edits, trace, focus, **more)
    except AssertionError as error:
        verdict, broke = f"{type(error).__name__}: {error}", True
    else:
        verdict, broke = f"kept all promises: {report}", False
    print(*trace, f"seed {seed}: {verdict}", sep="\n")
    return int(broke)


def search(seeds: range, edits: dict[str, str], focus: str | None, **more: bool) -> int:
    """Run many schedules. Stop at the first that breaks a promise, and print its trace."""
    began, faults, applied = time.perf_counter(), Counter[str](), 0
    print(f"seeds {seeds.start} to {seeds.stop - 1}")
    for seed in seeds:
        try:
            report = run(seed, edits, focus=focus, **more)
        except AssertionError:
            return show(seed, edits, focus, **more)
        faults.update(report.faults)
        applied += report.applied
    print(f"{len(seeds)} schedules, {applied} messages applied, in {time.perf_counter() - began:.1f} s")
    print(", ".join(f"{count} × {kind}" for kind, count in faults.most_common()))
    return 0


if __name__ == "__main__":
    if "PYTHONHASHSEED" not in os.environ:  # the order of sets depends on it, and a replay needs the same order
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main())
