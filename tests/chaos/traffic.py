"""A producer: sends numbered messages in every possible way, and records what it knows about each.

If a push is not answered, it sends these messages again with new numbers and new keys. The unanswered push may arrive
late, after later messages, so the old keys get no more messages. Only the computation that drops duplicates gets the
same bytes again: until they are known to be in, and sometimes once more.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Literal, get_args

import redis

from celery_partitions.model.keys import partition_of
from celery_partitions.producer.bulk import SendInterrupted
from celery_partitions.store.names import INGRESS, partitions_and_ingress
from tests.chaos import sends
from tests.chaos.acts import ALWAYS, Act
from tests.chaos.application import flow, note, play, play_on, play_once
from tests.chaos.batches import play_async_batches, play_batches
from tests.chaos.calls import play_async, play_in_threads
from tests.chaos.expiry import live
from tests.chaos.junk import JUNK
from tests.chaos.ledger import UNKEPT, Sent, SentAct, SentJunk, SentNote, in_doubt
from tests.chaos.limits import play_shared, play_slowly
from tests.chaos.replication import Replication
from tests.chaos.timers import plan
from tests.fundamentals.live import LiveGroup
from tests.model.build import raw_message

#: bulk: `send_many`. ingress: as a producer that cannot run the key extractor. astray: to partition 0, whatever the key.
#: The others go to the ingress: stubborn to the computation that retries forever, again to the one that drops duplicates,
#: flow into the pipeline, and so on.
Way = Literal["bulk", "ingress", "astray", "stubborn", "again", "flow", "async", "threads", "shared", "slowly", "timers", "sends", "expiry", "batches", "async batches"]
WAYS: tuple[Way, ...] = get_args(Way)
#: The other ways send to `play`, and those of `sends` to one that depends on the key.
TO: dict[str, Any] = {
    "stubborn": play_on, "again": play_once, "flow": flow, "async": play_async, "threads": play_in_threads,
    "shared": play_shared, "slowly": play_slowly, "timers": plan, "expiry": live,
    "batches": play_batches, "async batches": play_async_batches,
}  # fmt: skip
#: In the ways other than those to `play`: the share of messages that raise, and how often at most.
RAISING_SHARE, MAX_RAISES = 0.03, 4
#: These are retried until they succeed, and have a time limit.
STUBBORN: tuple[Way, ...] = ("stubborn", "threads")
#: Messages in these ways may kill their worker, or hold the interpreter lock.
DEADLY: tuple[Way, ...] = ("bulk", "ingress", "astray", "async")
#: In these ways new messages are sent only while fewer than these wait: their rate is limited.
MAX_WAITING: dict[Way, int] = {"shared": 100, "slowly": 60}
#: How often a message to the computation that drops duplicates is pushed at most.
MAX_PUSHES = 3
#: Keys per way, and the messages per key before a new key replaces it: the state holds the whole history.
KEYS = 8
MAX_A_KEY = 200
#: How long a message takes: long enough that workers are seldom idle and faults hit batches.
ACT_SECONDS = (0.0, 0.002, 0.005)
#: And if others run meanwhile: some are longer than a batch.
WAITING: tuple[Way, ...] = ("async", "threads", "shared")
WAIT_SECONDS = (0.0, 0.002, 0.05, 0.2)
#: Messages per push, and the pause after it: a few hundred messages per second, which the workers can process between faults.
PUSH_MESSAGES = (1, 60)
PAUSE_SECONDS = (0.05, 0.2)
#: No more than about this many messages are queued. On a machine with less time for the workers a run would not come to its end.
MAX_QUEUED = 3000
#: The longest `eta`. Shorter than the timeouts that wait for the group to finish.
LONGEST_DELAY_SECONDS = 2.0

#: Shared by all producers of the process, so that every message has a unique number.
_numbers = count()


def next_number() -> int:
    """A unique number for a message."""
    return next(_numbers)


class Producer(threading.Thread):
    """Sends until `end` is called. `live` holds this producer's connection to the group."""

    def __init__(self, number: int, seed: int, live: LiveGroup) -> None:
        super().__init__(name=f"producer-{number}", daemon=True)
        self.number, self.live, self.replication = number, live, Replication(live)
        self.random = random.Random(f"producer {seed} {number}")
        #: Everything it sent, in order. Other threads read it when this one has ended.
        self.sent: list[Sent] = []
        self.unanswered = 0
        self._fresh = count()
        self._keys: dict[Way, list[str]] = {way: [self.new_key(way) for _ in range(KEYS)] for way in WAYS}
        self._used: dict[str, int] = {}
        #: Requests for the next pushes: numbers of malformed messages, and of messages that raise.
        self.malformed: deque[int] = deque()
        self.raising: deque[int] = deque()
        #: Numbers of messages that kill their worker.
        self.poison_messages: deque[int] = deque()
        #: Numbers of messages that hold the interpreter lock.
        self.holding: deque[int] = deque()
        #: Numbers of messages that hang at their first attempt.
        self.hanging: deque[int] = deque()
        self._ended = threading.Event()
        self._failure: Exception | None = None

    def end(self) -> None:
        """Stop sending, and wait for the current push. Raises the exception that ended the thread, if there was one."""
        self._ended.set()
        self.join()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                if self.queued() < MAX_QUEUED:
                    self.send_some()
                self._ended.wait(self.random.uniform(*PAUSE_SECONDS))
        except Exception as error:  # `end` raises it: a run without its traffic proves nothing
            self._failure = error

    def queued(self) -> int:
        """How many messages are in the queues. 0 if the server does not answer: sending shows what becomes of such messages."""
        queues = [self.live.names.queue(partition) for partition in partitions_and_ingress(self.live.settings.partitions)]
        try:
            with self.live.client.pipeline(transaction=False) as pipe:
                for queue in queues:
                    pipe.llen(queue)
                return sum(pipe.execute())
        except (redis.RedisError, OSError):
            return 0

    def send_some(self) -> None:
        """Send messages in one random way, and sometimes malformed messages, plain tasks and delayed messages."""
        self.send_in(self.random.choice(WAYS))
        if self.malformed:
            self.send_junk(self.malformed.popleft())
        match self.random.randrange(10):
            case 0:
                self.send_notes(self.random.randint(1, 3))
            case 1:
                self.send_delayed(self.random.randint(1, 5))

    def send_in(self, way: Way) -> None:
        """Send messages in one way, unless too many of them wait."""
        if way not in MAX_WAITING or self.waiting(way) < MAX_WAITING[way]:
            self.send_acts(way, list(self.acts(way, self.random.randint(*PUSH_MESSAGES))))

    # Making messages.

    def acts(self, way: Way, messages: int) -> Iterator[Act]:
        playing, deadly, stubborn = way in ("bulk", "ingress", "astray"), way in DEADLY, way in STUBBORN
        raising = self.raising.popleft() if self.raising and playing else 0
        killing = self.poison_messages.popleft() if self.poison_messages and deadly else 0
        holding = self.holding.popleft() if self.holding and deadly else 0
        hanging = self.hanging.popleft() if self.hanging and stubborn else 0
        for place in range(messages):
            raises = self.random.choice((1, ALWAYS)) if place < raising else 0
            if not playing and self.random.random() < RAISING_SHARE:
                raises = self.random.randint(1, MAX_RAISES) if stubborn else 1 if way == "again" else self.random.choice((1, 1, ALWAYS))
            seconds = self.random.choice(WAIT_SECONDS if way in WAITING else ACT_SECONDS)
            act = Act(self.some_key(way), next(_numbers), raises, seconds, raising <= place < raising + killing)
            act.hangs = self.random.choice(("sleep", "spin")) if place < hanging else ""
            if raising + killing <= place < raising + killing + holding:
                # With its own key: whether it is applied or becomes a dead letter is not known.
                act = Act(self.new_key("hold"), next(_numbers), hangs="hold")
            yield act

    def some_key(self, way: Way) -> str:
        place = self.random.randrange(KEYS)
        key = self._keys[way][place]
        self._used[key] = self._used.get(key, 0) + 1
        if self._used[key] == MAX_A_KEY:
            self._keys[way][place] = self.new_key(way)
        return key

    def new_key(self, way: str) -> str:
        return f"{self.number}-{way}-{next(self._fresh)}"

    def waiting(self, way: Way) -> int:
        """How many messages of a way's keys are not applied yet. Many if the server does not answer."""
        keys = self._keys[way]
        try:
            states = self.live.group.states.get_many(TO[way].computation, keys)
        except (redis.RedisError, OSError):
            return MAX_WAITING[way]
        return sum(self._used.get(key, 0) - len(states[key].numbers if key in states else ()) for key in keys)

    def leave_keys(self, acts: Sequence[Act]) -> None:
        """Send nothing more to the keys of these acts."""
        left = {act.key for act in acts}
        for way, keys in self._keys.items():
            self._keys[way] = [self.new_key(way) if key in left else key for key in keys]

    # Pushing messages.

    def send_acts(self, way: Way, acts: list[Act]) -> None:
        """Send in one way. Messages without an answer are sent again, with new numbers and keys, or unchanged."""
        while acts:
            match way:
                case "bulk":
                    doubtful = self.send_in_bulk(acts)
                case "again":
                    doubtful = self.push_again(acts)
                case _:
                    doubtful = self.push_acts(way, acts)
            self.leave_keys(doubtful)
            acts = [Act(self.some_key(way), next(_numbers), act.raises, act.seconds) for act in doubtful]
            if doubtful and self._ended.wait(self.random.uniform(*PAUSE_SECONDS)):
                return

    def send_in_bulk(self, acts: Sequence[Act]) -> list[Act]:
        """Call `send_many`. Returns the messages that may or may not be in; per partition all of them are in or none."""
        sent = [sent_act(act) for act in acts]
        partitions = {str(partition_of(act.key, self.live.settings.partitions)) for act in acts}
        try:
            before = self.replication.mark(partitions)
            self.live.send(play, acts)
        except SendInterrupted as error:
            self.unanswered += 1
            refused = {act.number for act in error.refused}
            taken = [one for one in sent if one.number not in refused]
            self.sent += taken[: error.sent]
            for one in taken[error.sent : error.sent + len(error.unknown)]:
                partition = partition_of(one.key, self.live.settings.partitions)
                self.sent.append(in_doubt(one, f"bulk {acts[0].number}/{partition}"))
            return list(error.unknown)
        except (redis.RedisError, OSError):  # before anything was sent: it first reads N
            return []
        unkept = {partition for partition in partitions if not self.replication.has(partition, before)}
        doubtful = []
        for act, one in zip(acts, sent, strict=True):
            partition = str(partition_of(act.key, self.live.settings.partitions))
            self.sent.append(in_doubt(one, f"{UNKEPT} bulk {acts[0].number}/{partition}") if partition in unkept else one)
            doubtful += [act] if partition in unkept else []
        return doubtful

    def push_acts(self, way: Way, acts: Sequence[Act]) -> list[Act]:
        partition = "0" if way == "astray" else INGRESS
        raws = [self.raw_act(act, way) for act in acts]
        sent = [sent_act(act, way) for act in acts]
        return [] if self.push(partition, raws, sent) else list(acts)

    def push_again(self, acts: Sequence[Act]) -> list[Act]:
        """Push the same bytes until they are known to be in, and sometimes once or twice more. The order stays correct."""
        raws = [self.raw_act(act, "again") for act in acts]
        pushes, is_in = self.random.randint(1, MAX_PUSHES), False
        while pushes > 0 or not is_in:
            is_in = bool(self.is_pushed(INGRESS, raws)) or is_in
            pushes -= 1
            if not is_in and self._ended.wait(self.random.uniform(*PAUSE_SECONDS)):
                break
        sent = [sent_act(act, "again") for act in acts]
        self.sent += sent if is_in else [in_doubt(one, f"again {acts[0].number}") for one in sent]
        return []

    def send_delayed(self, messages: int) -> None:
        key = self.new_key("delayed")
        numbers = [next(_numbers) for _ in range(messages)]
        dues = [datetime.now(UTC) + timedelta(seconds=self.random.uniform(0, LONGEST_DELAY_SECONDS)) for _ in numbers]
        raws = [self.raw_act(Act(key, number), eta=due.isoformat()) for number, due in zip(numbers, dues, strict=True)]
        partition = str(partition_of(key, self.live.settings.partitions))
        self.push(partition, raws, [SentAct(key, number, ordered=False) for number in numbers])

    def send_notes(self, messages: int) -> None:
        numbers = [next(_numbers) for _ in range(messages)]
        raws = [raw_message(note.name, number, f"note-{number}") for number in numbers]
        self.push(self.some_partition(), raws, [SentNote(number) for number in numbers])

    def send_junk(self, messages: int) -> None:
        made = [(reason, make(next(_numbers))) for reason, make in self.random.choices(JUNK, k=messages)]
        partition = self.random.choice((INGRESS, self.some_partition()))
        self.push(partition, [raw for _, raw in made], [SentJunk(raw, reason) for reason, raw in made])

    def some_partition(self) -> str:
        return str(self.random.randrange(self.live.settings.partitions))

    def raw_act(self, act: Act, way: str = "", **headers: str) -> bytes:
        name = sends.teller_of(act.key) if way == "sends" else TO.get(way, play).name
        return raw_message(name, asdict(act), f"act-{act.number}", sent_at=time.time(), **headers)

    def push(self, partition: str, raws: Sequence[bytes], sent: Sequence[Sent]) -> bool:
        """Push with one LPUSH, and record it in the ledger. Returns False if it is unknown whether all messages are in or none."""
        try:
            before = self.replication.mark([partition])
        except (redis.RedisError, OSError):
            return True  # nothing was sent
        is_in, unkept = self.is_pushed(partition, raws), ""
        if is_in and not self.replication.has(partition, before):
            is_in, unkept = None, f"{UNKEPT} "
        if is_in is None:
            pack = f"{unkept}push {next(_numbers)}"
            self.sent += [in_doubt(one, pack) for one in sent]
        elif is_in:
            self.sent += sent
        return is_in is not None

    def is_pushed(self, partition: str, raws: Sequence[bytes]) -> bool | None:
        """One LPUSH, as a foreign producer does it. Returns None if there is no answer."""
        try:
            self.live.client.lpush(self.live.names.queue(partition), *raws)
        except redis.ResponseError:
            return False
        except (redis.RedisError, OSError):
            self.unanswered += 1
            return None
        return True


def sent_act(act: Act, way: str = "") -> SentAct:
    """The ledger's entry for an act."""
    return SentAct(act.key, act.number, act.raises, act.kills, holds=act.hangs == "hold", way=way)
