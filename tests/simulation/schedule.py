"""One schedule from a seed: workers, producers, operators, faults, and the checks.

`run(seed)` raises `HistoryError` or `Violation` if a promise is broken. The same seed breaks it at the same step.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from tests.simulation import application
from tests.simulation.calls import during_call
from tests.simulation.faults import Faults
from tests.simulation.judge import Violation, check_shares
from tests.simulation.scene import STORM_STEPS
from tests.simulation.server import Server, Session
from tests.simulation.trace import format_request
from tests.simulation.world import BEGINNING, Thread, World

logger = logging.getLogger("celery.worker.partitions")

#: After the storm: the virtual seconds in which all messages must be applied and the partitions shared fairly. The steps only end a loop
#: in which no time passes: twenty calls of seconds in a row at one key took 30,000.
CALM_SECONDS, CALM_STEPS = 600.0, 100_000

#: In the record of a hot key.
HOT = b'"reason":"ready"'

#: What may happen in the storm, with its relative frequency.
ACTIONS = {
    "send_delayed": 3,
    "send_garbage": 3,
    "send_plain_task": 3,
    "join": 5,
    "kill": 4,
    "leave": 3,
    "freeze": 6,
    "pass_time": 4,
    "cut": 5,
    "fill_server": 1,
    "pause_server": 2,
    "restart_server": 2,
    "flush_scripts": 2,
    "save": 2,
    "lose": 1,
    "forget": 3,
    "edit": 4,
    "change_after_commit": 2,
    "retry_dead_letter": 3,
    "change_parked": 3,
    "send_poison_message": 1,
    "resend": 3,
    "pause": 1,
    "resume": 2,
    "send_burst": 0,
    "set_clock": 0,
}


#: The same for a schedule with resizes.
RESIZES = {"resize": 12, "abort": 4, "finish": 8}


@dataclass(frozen=True)
class Report:
    """The result of a schedule that broke no promise."""

    steps: int
    seconds: float
    applied: int
    dead: int
    faults: Mapping[str, int]


def run(
    seed: object,
    edits: Mapping[str, str] | None = None,
    trace: list[str] | None = None,
    focus: str | None = None,
    *,
    resizes: bool = False,
    apart: bool = False,
) -> Report:
    """Run one schedule to its end. `edits`: replacements in the engine's scripts. `trace`: a list that gets the events. `focus`:
    the one of `ACTIONS` that happens as often as all others, with many lost answers. `resizes`: operators resize the group, and producers
    learn of it at random moments. `apart`: a script that sees two partitions is refused, as on several servers."""
    server = Server(edits or {})
    collects = gc.isenabled()
    gc.disable()  # saves a sixth of the time
    try:
        with World(seed, server) as world:
            world.trace = trace
            return Schedule(world, server, focus, seed, resizes=resizes, apart=apart).run()
    finally:
        if collects:
            gc.enable()


class Schedule(Faults):
    """The storm, the calm after it, and the checks."""

    def __init__(
        self, world: World, server: Server, focus: str | None = None, seed: object = 0, *, resizes: bool = False, apart: bool = False
    ) -> None:
        super().__init__(world, server, seed, apart=apart)
        self.errors = EngineErrors(world)
        self.resizes, self.weights = resizes, dict(ACTIONS)
        if resizes:
            self.weights |= RESIZES
            self.fault_rate, self.send_rate = max(self.fault_rate, 0.05), max(self.send_rate, 0.05)
            self.storm_steps = 3 * STORM_STEPS
        if apart:  # one server that loses data is `tests/cluster/test_replicas.py`
            self.weights["lose"] = 0
        if focus is not None:
            self.weights[focus], self.fault_rate, self.loss_rate = sum(ACTIONS.values()), 0.05 if focus == "send_burst" else 0.2, 0.05
        world.delivered = self.delivered  # type: ignore[method-assign]
        application.during[0], during_call[0] = self.during, self.during_call

    def run(self) -> Report:
        errors = self.errors
        logger.addHandler(errors)
        level, propagate = logger.level, logger.propagate
        logger.setLevel(logging.DEBUG if self.world.trace is not None else logging.ERROR)
        logger.propagate = False
        try:
            for _ in range(self.random.choice((1, 2, 3))):
                self.join()
            self.save()  # the server may lose everything
            self.storm()
            self.calm()
            self.judge.check_end()
            self.check_rest()
        finally:
            logger.removeHandler(errors)
            logger.setLevel(level)
            logger.propagate = propagate
        applied = len(self.judge.forgotten) + sum(map(len, self.judge.applied.values()))
        return Report(self.steps, self.world.now - BEGINNING, applied, len(self.judge.dead), self.faults)

    def step(self) -> bool:
        """Let one thing happen. Returns False if nothing ever will."""
        world = self.world
        self.steps += 1
        found = world.candidates()
        if not found:
            moment = world.next_moment()
            if moment is None:
                return False
            world.advance(moment)
            return True
        world.advance(world.now + self.random.choice((0.0, 0.0001, 0.002)))
        chosen = self.random.choice(found)
        if isinstance(chosen, Thread):
            world.resume(chosen)
            if chosen.process.dead:
                world.kill(chosen.process)
        else:
            self.deliver(chosen)
        if self.judge.overlaps:
            raise Violation(self.judge.overlaps[0])
        if self.errors.found:
            raise Violation(f"the engine raised: {self.errors.found[0]}")
        if self.steps % 32 == 0:
            world.sweep()
            self.workers = [worker for worker in self.workers if not worker.gone]
        return True

    def delivered(self, session: Session, words: list[bytes], answer: object) -> None:
        if self.stays_slow and any(HOT in word for word in words if len(word) < 300):
            self.log("a key is hot", "hot key")
        if self.world.trace is not None:
            self.world.note("%-9s %s → %s", session.owner, format_request(words), format_request(answer))
        self.judge.look(session)

    def storm(self) -> None:
        actions = [getattr(self, name) for name, weight in self.weights.items() for _ in range(weight)]
        for _ in range(self.storm_steps):
            if self.random.random() < self.send_rate:
                self.send()
            if self.random.random() < self.fault_rate:
                self.random.choice(actions)()
                self.judge.look()
            if not self.step():
                self.join()

    def calm(self) -> None:
        """No more faults, and at least one worker: all messages must be applied, and the partitions shared fairly."""
        world = self.world
        self.stormy = False
        world.note("========= calm")
        world.paused_until = world.down_until = world.full_until = 0.0
        for thread in world.threads:
            thread.frozen_until = thread.process.frozen_until = 0.0
        self.workers = [worker for worker in self.workers if not worker.gone]
        if all(worker.leaving for worker in self.workers):
            self.join()
        if self.resizes:  # there are more partitions that look at their queues: a hundred calls of seconds would take more than the steps
            self.call_seconds = self.call_seconds[:2]
        end, last = world.now + CALM_SECONDS, self.steps + CALM_STEPS
        why: str | None = ""
        while why is not None:
            self.resume()
            if self.resizes:
                self.finish()
            self.judge.look()
            for _ in range(100):
                self.step()
                if not self.running():
                    self.join()
                if not self.world.candidates():
                    break
            why = self.unrest()
            if why is not None and (world.now > end or self.steps > last):
                raise Violation(f"stall: {why}, {world.now - end + CALM_SECONDS:.0f} s after the last fault")

    def unrest(self) -> str | None:
        if not self.judge.is_drained():
            return "messages are still queued, delayed or parked"
        if any(worker.leaving and not worker.gone for worker in self.workers):
            return "a worker does not exit"
        if self.world.candidates() or any(thread.sleeps for thread in self.world.threads):
            return "a thread is still active"
        owners = self.server.keyspace.data.get(self.names.owners.encode(), {})
        alive = {worker.name for worker in self.workers if not worker.gone}
        if self.is_moving:
            return "keys are still on their way"
        return check_shares(owners.values(), alive, self.topology().served)

    def check_rest(self) -> None:
        """Check that workers have the same states in memory as Redis, and that plain tasks ran."""
        if not_run := self.plain_task - set(self.ran_plain_task) - self.judge.dead.keys():
            raise Violation(f"loss: a plain task never ran: {sorted(not_run)[0]!r}")
        data = self.server.keyspace.data
        for worker in self.running():
            assert worker.loop is not None
            for partition, owned in worker.loop.owned_partitions.items():
                meta = data[self.names.meta(partition).encode()]
                if meta[b"token"] != b"%d" % owned.lease.token or owned.must_peek:
                    continue
                for name, key, slot in worker.cached(owned):
                    held = data.get(self.names.states(partition, name).encode(), {}).get(key.encode())
                    if slot.stored != held and b"%d" % owned.edit_version == meta.get(b"edit_version", b"0"):
                        raise Violation(f"{worker.name} has an old state of {name}:{key} in memory")


class EngineErrors(logging.Handler):
    """Adds log records to the trace. An error with a traceback is an internal error of the engine, which its loop survives."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.world.note("%-9s logs: %s", self.world.who(), record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            text = "".join(logging.Formatter().formatException(record.exc_info))
            self.world.note("%s", text)
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}\n{text}")
