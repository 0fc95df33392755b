"""One schedule from a seed: workers, producers, operators and faults, and the judgement.

`run(seed)` raises `HistoryError` or `Violation` where a promise is broken; the same seed breaks it at the same step.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zlib import crc32

from celery import Celery
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError

from config.settings import Settings
from tasks.producer.installation import Installation
from tasks.store.names import INGRESS, PRIORITY_SUFFIXES
from tasks.store.pausing import pause, resume
from tests.simulation import application
from tests.simulation.application import ORDINARY, declared, raw_deed, raw_message
from tests.simulation.clock import virtual
from tests.simulation.judge import Judge, Place, Violation, check_shares
from tests.simulation.network import connect
from tests.simulation.server import Server, Session
from tests.simulation.tell import tell_request
from tests.simulation.worker import Worker
from tests.simulation.world import Thread, World

logger = logging.getLogger("celery.worker.partitions")

#: Scheduler's steps in which faults happen.
STORM_STEPS = 300
#: After the storm: virtual seconds, and steps, in which all must be applied and shared out fairly.
CALM_SECONDS, CALM_STEPS = 600.0, 30_000

#: A server that is full, that loads its data, or has become a replica.
REFUSALS = (
    OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    BusyLoadingError("Redis is loading the dataset in memory"),
    ReadOnlyError("You can't write against a read only replica."),
)

_app = Celery("simulation", set_as_current=False)


@dataclass(frozen=True)
class Report:
    """What a schedule that broke no promise did."""

    steps: int
    seconds: float
    applied: int
    dead: int
    faults: Mapping[str, int]


def run(seed: object, edits: Mapping[str, str] | None = None, trace: list[str] | None = None) -> Report:
    """Run one schedule to its end. `edits`: what is replaced in the engine's scripts. `trace`: gets what happened."""
    server = Server(edits or {})
    collects = gc.isenabled()
    gc.disable()  # a sixth of the time
    try:
        with virtual(), World(seed, server) as world:
            world.trace = trace
            return Schedule(world, server).run()
    finally:
        if collects:
            gc.enable()


class Schedule:
    def __init__(self, world: World, server: Server) -> None:
        self.world, self.server, self.random = world, server, world.random
        pick = self.random.choice
        self.settings = Settings(
            partitions=pick((1, 2, 3)),
            lease_seconds=1.0,
            redis_timeout_seconds=pick((0.4, 1.5)),
            batch_messages=pick((1, 2, 5, 20, 200)),
            batch_seconds=pick((0.0001, 0.05, 1.0)),
            state_cache_keys=pick((1, 4, 1000)),
            retry_attempts=pick((0, 1, 3)),
            retry_backoff_seconds=pick((0.05, 0.5)),
            retry_longest_backoff_seconds=1.0,
            retry_then=pick(("park", "park", "dead_letter", "dead_letter", "hold", "stop")),
            mailbox_messages=pick((2, 10_000, 10_000)),
            deaths=pick((0, 1, 3)),
        )
        self.deduplicates = pick((False, True))
        computations = {
            "record": declared("record"),
            "second": declared("second", deduplicate=3600.0 if self.deduplicates else None),
        }
        self.installation = Installation(_app, self.settings, computations, by_default=False)
        self.names = self.installation.group.names
        self.judge = Judge(server, self.names, self.installation.group.codec, computations)
        self.client = connect(self.settings)
        self.group, self.computations = self.installation.group, computations
        self.workers: list[Worker] = []
        self.ordinary: set[bytes] = set()
        self.ran_ordinary: list[bytes] = []
        self.numbers = 0
        self.joined = 0
        self.steps = 0
        self.faults: dict[str, int] = {}
        self.errors = EngineErrors(world)
        self.stormy = True
        self.send_rate = pick((0.02, 0.05, 0.15))
        self.fault_rate = pick((0.01, 0.05, 0.2))
        self.loss_rate = pick((0.0, 0.01, 0.05))
        self.raise_rate = pick((0.0, 0.02, 0.1))
        self.slow_rate = pick((0.0, 0.05))
        self.killers: set[int] = set()
        self.keys = [f"key-{number}" for number in range(pick((1, 3, 6)))]
        world.delivered = self.delivered  # type: ignore[method-assign]
        application.during[0] = self.during

    def run(self) -> Report:
        errors = self.errors
        logger.addHandler(errors)
        level, propagate = logger.level, logger.propagate
        logger.setLevel(logging.DEBUG if self.world.trace is not None else logging.ERROR)
        logger.propagate = False
        try:
            for _ in range(self.random.choice((1, 2, 3))):
                self.join()
            self.storm()
            self.calm()
            self.judge.check_end()
            self.check_rest()
        finally:
            logger.removeHandler(errors)
            logger.setLevel(level)
            logger.propagate = propagate
        applied = len(self.judge.forgotten) + sum(map(len, self.judge.applied.values()))
        return Report(self.steps, self.world.now - 1_800_000_000.0, applied, len(self.judge.dead), self.faults)

    # The scheduler.

    def step(self) -> bool:
        """Let one thing happen. False: nothing ever will."""
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
        if self.errors.found:
            raise Violation(f"the engine raised: {self.errors.found[0]}")
        if self.steps % 32 == 0:
            world.sweep()
            self.workers = [worker for worker in self.workers if not worker.gone]
        return True

    def deliver(self, session: Session) -> None:
        """A request arrives, or does not, or its answer does not."""
        if self.stormy and session.owner != "outside" and self.random.random() < self.loss_rate:
            kind = self.random.choice(("request lost", "reply lost", "request late", "request refused"))
            self.tell(f"{kind}: {session.owner} {tell_request(session.inbox[0])}", kind)
            if kind == "request refused":
                session.inbox.popleft()
                session.outbox.append(self.random.choice(REFUSALS))
                return
            session.cut = True
            if kind == "reply lost":
                self.world.deliver(session)
            if kind != "request late":
                session.inbox.clear()
            session.outbox.clear()
            session.blocked, session.channels = None, set()
        else:
            self.world.deliver(session)

    def delivered(self, session: Session, words: list[bytes], answer: object) -> None:
        if self.world.trace is not None:
            self.world.note("%-9s %s → %s", session.owner, tell_request(words), tell_request(answer))
        self.judge.look(session)

    def during(self, number: int) -> None:
        """In a computation: it ends the process, raises, or takes long, and everything else goes on."""
        self.world.check_alive()
        if number in self.killers:
            self.tell(f"{self.world.who()} is ended by {number}", "killer")
            self.world.die()
        if not self.stormy:
            return
        if self.random.random() < self.raise_rate:
            self.world.note("%-9s raises at %d", self.world.who(), number)
            raise ValueError(f"{number} was told to fail")
        if self.random.random() < self.slow_rate:
            seconds = self.random.choice((0.0, 0.1, 1.5))
            self.world.note("%-9s takes %.1f s for %d", self.world.who(), seconds, number)
            self.world.wait(None, self.world.now + seconds)

    def tell(self, text: str, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self.world.note("--------- %s", text)

    # The storm.

    def storm(self) -> None:
        actions = [getattr(self, name) for name, weight in ACTIONS.items() for _ in range(weight)]
        for _ in range(STORM_STEPS):
            if self.random.random() < self.send_rate:
                self.send()
            if self.random.random() < self.fault_rate:
                self.random.choice(actions)()
                self.judge.look()
            if not self.step():
                self.join()

    def running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.running]

    def some_worker(self) -> Worker | None:
        running = self.running()
        return self.random.choice(running) if running else None

    def join(self) -> None:
        if len(self.running()) < 3:
            self.joined += 1
            name = f"worker-{self.joined}"
            self.tell(f"{name} joins", "join")
            self.workers.append(Worker(self.world, self.installation, name, self.ran_ordinary))

    def kill(self) -> None:
        if (worker := self.some_worker()) is not None:
            self.tell(f"{worker.name} is killed", "kill")
            self.world.kill(worker.process)
            self.workers.remove(worker)

    def leave(self) -> None:
        if (worker := self.some_worker()) is not None and not worker.leaving:
            cold = self.random.random() < 0.5
            self.tell(f"{worker.name} is told to end{' at once' if cold else ''}", "leave")
            worker.leave(cold=cold)

    def freeze(self) -> None:
        """A process, or one thread of it, stands still, for less than a lease or for more."""
        if (worker := self.some_worker()) is not None:
            what = self.random.choice([worker.process, *worker.process.threads])
            seconds = self.random.choice((0.2, 0.9, 1.5, 4.0))
            self.tell(f"{worker.name} {what.name} stands still for {seconds} s", "freeze")
            what.frozen_until = self.world.now + seconds

    def pass_time(self) -> None:
        """Everything takes long at once."""
        seconds = self.random.choice((0.05, 0.5, 1.2))
        self.tell(f"{seconds} s pass", "time")
        self.world.advance(self.world.now + seconds)

    def cut(self) -> None:
        sessions = [session for session in self.server.sessions if not session.cut and session.owner != "outside"]
        if sessions:
            session = self.random.choice(sessions)
            self.tell(f"a connection of {session.owner} is cut", "cut")
            session.cut, session.blocked, session.channels = True, None, set()
            session.outbox.clear()

    def pause_server(self) -> None:
        seconds = self.random.choice((0.3, 1.5))
        self.tell(f"the server stands still for {seconds} s", "server pause")
        self.world.paused_until = self.world.now + seconds

    def restart_server(self) -> None:
        """What it holds it keeps, its scripts and connections it does not."""
        seconds = self.random.choice((0.0, 0.3, 1.5))
        self.tell(f"the server is away for {seconds} s", "server restart")
        self.world.down_until = self.world.now + seconds
        self.server.scripts.clear()
        for session in self.server.sessions:
            session.cut, session.blocked, session.channels = True, None, set()
            session.inbox.clear()
            session.outbox.clear()

    def flush_scripts(self) -> None:
        self.tell("the scripts are forgotten", "script flush")
        self.server.scripts.clear()

    # Producers and operators; what they do is done at once.

    def push(self, queue: str, raw: bytes) -> None:
        self.server.outside(b"LPUSH", queue.encode(), raw)

    def send(self) -> None:
        """Some messages to some keys; each key's always go the same way."""
        for _ in range(self.random.choice((1, 2, 5, 12))):
            key = self.random.choice(self.keys)
            name = self.random.choice(("record", "second"))
            self.numbers += 1
            self.judge.sent(name, key, self.numbers)
            self.push(self.way_of(key), raw_deed(name, key, self.numbers))
            self.world.note("--------- %d is sent to %s:%s", self.numbers, name, key)

    def send_killer(self) -> None:
        """A message that ends the process that runs it, until it is a dead letter."""
        if self.settings.deaths:
            key = self.random.choice(self.keys)
            self.numbers += 1
            self.killers.add(self.numbers)
            self.judge.sent("record", key, self.numbers)
            self.push(self.way_of(key), raw_deed("record", key, self.numbers))
            self.tell(f"{self.numbers}, a killer, is sent to {key}", "killer sent")

    def resend(self) -> None:
        """A producer sends a message twice, with one id: the computation drops the second."""
        if self.deduplicates:
            applied = [(place, n) for place, numbers in sorted(self.judge.applied.items()) for n in numbers]
            of_it = [(key, n) for (name, key), n in applied if name == "second" and n not in self.judge.edits]
            if of_it:
                key, number = self.random.choice(of_it)
                self.push(self.way_of(key), raw_deed("second", key, number))
                self.tell(f"{number} is sent again", "resend")

    def way_of(self, key: str) -> str:
        """Straight to the key's queue; or by the ingress, a wrong partition, or a priority list."""
        right = self.home_of(key)
        queue = self.names.queue(right)
        match self.keys.index(key) % 6:
            case 1:
                return self.names.queue(INGRESS)
            case 3:
                return self.names.queue(str((int(right) + 1) % self.settings.partitions))
            case 5:
                return queue + PRIORITY_SUFFIXES[0]
            case _:
                return queue

    def home_of(self, key: str) -> str:
        return str(crc32(key.encode()) % self.settings.partitions)

    def send_delayed(self) -> None:
        self.numbers += 1
        key = f"delayed-{self.numbers}"
        due = self.world.now + self.random.choice((-1.0, 0.1, 1.0))
        self.judge.sent("record", key, self.numbers)
        self.push(self.names.queue(self.home_of(key)), raw_deed("record", key, self.numbers, eta=_iso(due)))
        self.tell(f"{self.numbers} is sent, due in {due - self.world.now:.1f} s", "delayed")

    def send_garbage(self) -> None:
        self.numbers += 1
        raw = self.random.choice(
            (
                b"garbage %d" % self.numbers,
                raw_message("nobody's", [], f"garbage-{self.numbers}"),
                raw_message("record", ["no deed"], f"garbage-{self.numbers}"),
            )
        )
        self.judge.broken.append(raw)
        self.push(self.names.queue(self.home_of(str(self.numbers))), raw)
        self.tell("garbage is sent", "garbage")

    def send_ordinary(self) -> None:
        self.numbers += 1
        raw = raw_message(ORDINARY, [], f"ordinary-{self.numbers}")
        self.ordinary.add(raw)
        self.push(self.names.queue(self.home_of(str(self.numbers))), raw)
        self.tell("an ordinary task is sent", "ordinary")

    def some_place(self) -> Place | None:
        places = sorted(place for place in self.judge.applied if place[1] in self.keys)
        return self.random.choice(places) if places else None

    def forget(self) -> None:
        if (place := self.some_place()) is not None:
            self.tell(f"an operator deletes the state of {place}", "forget")
            self.judge.forgets(place)
            editor = self.group.state_editor
            assert editor.delete(editor.see(self.computations[place[0]], place[1]), by="me") == "ok"

    def edit(self) -> None:
        """An operator appends to a state."""
        if (place := self.some_place()) is not None:
            self.tell(f"an operator edits the state of {place}", "edit")
            self.numbers += 1
            self.judge.edited(place, self.numbers)
            editor = self.group.state_editor
            seen = editor.see(self.computations[place[0]], place[1])
            assert seen.state is not None
            seen.state.numbers = [*seen.state.numbers, self.numbers]
            assert editor.set(seen, seen.state, by="me") == "ok"

    def pause(self) -> None:
        unit = str(self.random.randrange(self.settings.partitions))
        self.tell(f"an operator pauses partition {unit}", "pause")
        pause(self.client, self.names, [unit], by="me")

    def resume(self) -> None:
        """Paused partitions go on, and held keys are tried again."""
        units = [str(number) for number in range(self.settings.partitions)]
        if resumed := resume(self.client, self.names, units, by="me"):
            self.tell(f"an operator resumes partitions {resumed}", "resume")
        for parked in list(self.group.parked_keys.all()):
            if parked.fact.due is None:
                self.tell(f"an operator retries the held {parked.key}", "release")
                assert self.group.parked_keys.retry(parked.key, by="me") == "ok"

    def change_parked(self) -> None:
        """An operator retries, skips or discards the first message of a parked key."""
        parked = sorted(self.group.parked_keys.all(), key=lambda one: one.key)
        if parked:
            key = self.random.choice(parked).key
            keys, action = self.group.parked_keys, self.random.choice(("retry", "skip", "discard"))
            (head,) = self.server.outside(b"LRANGE", self.names.mailbox(self.home_of(key), key), b"-1", b"-1")
            number = int(json.loads(head)["headers"]["id"])
            self.tell(f"an operator's {action} of {number}, at which {key} is parked", action)
            if action == "discard":
                self.judge.discarded(number)
            assert getattr(keys, action)(key, by="me") == "ok"

    def retry_letter(self) -> None:
        """An operator sends a dead letter again, where that puts it behind all that was sent to its key."""
        straight = {key for key in self.keys if self.way_of(key) == self.names.queue(self.home_of(key))}
        for number, letters in list(self.judge.dead.items()):
            place = self.judge.place_of.get(number) if isinstance(number, int) else None
            if place is None or place[1] not in straight:
                continue
            letter = self.group.dead_letters.get(min(letters).decode())
            if letter is not None:
                self.tell(f"an operator retries {number!r}", "retry letter")
                self.judge.sent_again(int(number))
                assert self.group.dead_letters.retry([letter]) == 1
            return

    # After the storm.

    def calm(self) -> None:
        """No fault any more, and at least one worker: everything must be applied, and shared out fairly."""
        world = self.world
        self.stormy = False
        world.note("========= calm")
        world.paused_until = world.down_until = 0.0
        for thread in world.threads:
            thread.frozen_until = thread.process.frozen_until = 0.0
        self.workers = [worker for worker in self.workers if not worker.gone]
        if all(worker.leaving for worker in self.workers):
            self.join()
        end, last = world.now + CALM_SECONDS, self.steps + CALM_STEPS
        why: str | None = ""
        while why is not None:
            self.resume()
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
            return "there is still work"
        if any(worker.leaving and not worker.gone for worker in self.workers):
            return "a worker does not end"
        if self.world.candidates() or any(thread.sleeps for thread in self.world.threads):
            return "somebody is at work"
        owners = self.server.keyspace.data.get(self.names.owners.encode(), {})
        alive = {worker.name for worker in self.workers if not worker.gone}
        return check_shares(owners.values(), alive, self.settings.partitions)

    def check_rest(self) -> None:
        """What workers have in memory is what Redis has; ordinary tasks ran."""
        if not_run := self.ordinary - set(self.ran_ordinary) - self.judge.dead.keys():
            raise Violation(f"loss: an ordinary task never ran: {sorted(not_run)[0]!r}")
        data = self.server.keyspace.data
        tokens = data.get(self.names.tokens.encode(), {})
        for worker in self.running():
            assert worker.loop is not None
            for unit, lane in worker.loop.lanes.items():
                if tokens[unit.encode()] != b"%d" % lane.lease.token or lane.unknown:
                    continue
                for name, key, slot in worker.cached(lane):
                    held = data.get(self.names.states(unit, name).encode(), {}).get(key.encode())
                    if slot.stored != held and b"%d" % lane.revision == data[self.names.facts(unit).encode()].get(
                        b"revision", b"0"
                    ):
                        raise Violation(f"{worker.name} holds an old state of {name}:{key} in memory")


#: What may happen in the storm, and how often against the others.
ACTIONS = {
    "send_delayed": 3,
    "send_garbage": 3,
    "send_ordinary": 3,
    "join": 5,
    "kill": 4,
    "leave": 3,
    "freeze": 6,
    "pass_time": 4,
    "cut": 5,
    "pause_server": 2,
    "restart_server": 2,
    "flush_scripts": 2,
    "forget": 3,
    "edit": 4,
    "retry_letter": 3,
    "change_parked": 3,
    "send_killer": 1,
    "resend": 3,
    "pause": 1,
    "resume": 2,
}


class EngineErrors(logging.Handler):
    """Log records into the trace; an error with a traceback is one of the engine's own, which its loop survives."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.world.note("%-9s says: %s", self.world.who(), record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            text = "".join(logging.Formatter().formatException(record.exc_info))
            self.world.note("%s", text)
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}\n{text}")


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()
