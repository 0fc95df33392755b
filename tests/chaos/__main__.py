"""`python -m tests.chaos --seconds 60 --seed 7`: inject random faults into a group, let it finish, and check its history.

Prints the seed, a line for each injection, and the verdict. Exits with 1 if a message was lost, doubled, out of order or
unaccounted for; then the evidence is kept, and its path is printed. The same seed and seconds give the same injections
at the same times. What they hit depends on how fast the processes are.
"""

from __future__ import annotations

import argparse
import heapq
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from tests.chaos import evidence
from tests.chaos.acts import TRIES
from tests.chaos.cluster import ClusterStage
from tests.chaos.findings import look
from tests.chaos.injections import carry_out
from tests.chaos.limits import used
from tests.chaos.schedule import Injection, make_schedule
from tests.chaos.stage import Stage
from tests.chaos.verdict import Found, Violation, judge
from tests.faults.engines import BREAKS, BREAKS_OF_OUTPUTS
from tests.support.environment import clear_environment

#: In longer runs the server forgets commands that no longer matter.
LONG_SECONDS = 300.0


class Run:
    """One run on a prepared stage, up to the verdict."""

    def __init__(self, stage: Stage, seed: int, seconds: float) -> None:
        servers = len(stage.cluster.servers) if isinstance(stage, ClusterStage) else 0
        self.stage, self.schedule = stage, make_schedule(seed, seconds, servers)
        self.seconds = seconds
        self.lines: list[str] = []
        self.found: Found | None = None
        #: When faults began and ended.
        self.faults: list[tuple[float, float]] = []
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line with the time, and keep it for the evidence."""
        self.lines.append(f"{time.monotonic() - self.began:7.2f} s  {text}")
        print(self.lines[-1], flush=True)

    def judge(self) -> list[Violation]:
        """Inject the faults, stop them, wait for the remaining work, read the results, and compare."""
        stage = self.stage
        for producer in (*stage.producers, stage.prober):
            producer.start()
        self.harm()
        stage.calm()
        stage.end_producers()
        self.say("no more faults; waiting until all messages are done")
        stuck = []
        for wait in (stage.drain, stage.share_out):
            try:
                wait()
            except AssertionError as error:
                stuck.append(Violation("left", str(error)))
        stage.end_workers()
        self.found = replace(look(stage.live, stage.notes, stage.records, stage.complaints), late=stage.prober.late, faults=self.faults + stage.disturbances())
        sent = [one for producer in (*stage.producers, stage.prober) for one in producer.sent]
        self.say(
            f"{len(sent):,} messages sent, {sum(one.pack is not None for one in sent):,} of them in pushes without "
            f"an answer; {self.found.processed:,} applied to {len(self.found.applied):,} keys, "
            f"{len(self.found.dead_letters):,} dead letters, {len(self.found.notes):,} plain tasks run; "
            f"{len(stage.workers)} workers, {len(stage.retired)} of them restarted"
        )
        self.say(f"{len(self.found.calls):,} calls recorded, {self.found.lives} lives ended; {used(self.found.calls):.0%} of a shared rate limit was used")
        longest, ahead = max(stage.prober.waits, default=(0.0, 0))
        text = f"{len(stage.prober.waits)} messages on other partitions than the busy one waited up to {longest:.1f} s"
        self.say(f"{text} while their partition was healthy; the one that waited longest had {ahead} before it")
        self.say(
            f"{sum(fault.fired for fault in stage.faults)} requests and replies lost; workers saw "
            + ", ".join(f"{times} {what}" for what, times in stage.noticed().items())
        )
        return stuck + judge(sent, self.found, tries=TRIES)

    def harm(self) -> None:
        """Carry out the schedule, and end each injection when its time is over."""
        order = count()
        todo: list[tuple[float, int, Injection | tuple[str, Callable[[], object]]]] = [
            (injection.at, next(order), injection) for injection in self.schedule
        ]
        self.began = time.monotonic()
        while todo:
            at, _, what = heapq.heappop(todo)
            time.sleep(max(0.0, self.began + at - time.monotonic()))
            for number in self.stage.revive():
                self.say(f"worker {number} was killed by a message; restarted")
            if isinstance(what, Injection):
                self.faults.append((time.time(), time.time() + what.seconds))
                done = carry_out(what, self.stage)
                self.say(done.text)
                if done.end is not None:
                    heapq.heappush(todo, (at + what.seconds, next(order), done.end))
            else:
                text, end = what
                end()
                self.say(text)
        time.sleep(max(0.0, self.began + self.seconds - time.monotonic()))


def main() -> int:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=description, epilog=details)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are injected (default: 60)")
    parser.add_argument("--seed", type=int, help="decides which faults happen when, and to which process (default: random)")
    parser.add_argument("--broken", choices=[*BREAKS, *BREAKS_OF_OUTPUTS], help="run on an engine that is broken in this way, to see that it is caught")
    parser.add_argument("--cluster", type=int, default=0, help="the partitions are on a cluster with this number of primaries, each with a replica")
    options = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    clear_environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the context managers end all processes

    print(f"chaos for {options.seconds:g} s; repeat with: make chaos SECONDS={options.seconds:g} SEED={seed}{f' CLUSTER={options.cluster}' if options.cluster else ''}", flush=True)
    engine = {"BROKEN_ENGINE": options.broken} if options.broken else {}
    make_stage = partial(ClusterStage, options.cluster) if options.cluster else Stage
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory, make_stage(Path(directory), seed, engine, keeps_all=options.seconds <= LONG_SECONDS) as stage:
        run = Run(stage, seed, options.seconds)
        try:
            violations = run.judge()
        except Exception:
            print(f"the run itself failed; evidence in {evidence.keep(stage, run.lines, run.found)}", file=sys.stderr)
            raise
        for violation in violations:
            run.say(f"VIOLATION {violation}")
        if violations:
            print(f"chaos with seed {seed}: {len(violations)} violations; evidence in {evidence.keep(stage, run.lines, run.found)}")
            return 1
    print(f"chaos with seed {seed}: everything was applied exactly once, in order, and nothing is unaccounted for")
    return 0


if __name__ == "__main__":
    sys.exit(main())
