"""A producer: numbered messages in every way there is to send one, and what it knows of each.

When a push is not answered it sends those messages again under new numbers, to new keys: what was under way may come late,
behind what is sent after, so the old keys get nothing more. Only to the computation that drops duplicates does it send the
same bytes again: until they are known to be in, and at times once more.
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
from typing import Literal, get_args

import redis

from celery_partitions.model.keys import partition_of
from celery_partitions.producer.bulk import SendInterrupted
from celery_partitions.store.names import INGRESS
from tests.chaos.application import ALWAYS, Act, flow, note, play, play_on, play_once
from tests.chaos.junk import JUNK
from tests.chaos.ledger import Sent, SentAct, SentJunk, SentNote, in_doubt
from tests.fundamentals.live import LiveGroup
from tests.model.build import raw_message

#: `send_many`; to the ingress, as a producer that can't run the key extractor; to partition 0, whatever the key. To the
#: computation that is tried on in its place, to the one that drops duplicates, into the pipeline: all by the ingress.
Way = Literal["bulk", "ingress", "astray", "stubborn", "again", "flow"]
WAYS: tuple[Way, ...] = get_args(Way)
#: `play`'s messages are the others.
NAME_OF = {"stubborn": play_on.name, "again": play_once.name, "flow": flow.name}
#: Of the ways that never give up, so many messages raise, at most so often.
RAISING_SHARE, MAX_RAISES = 0.03, 4
#: A message to the computation that drops duplicates is pushed so often at most.
MAX_PUSHES = 3
#: Keys of each way, and so many messages to a key before it is left for a new one: its state is its history.
KEYS = 8
MAX_A_KEY = 200
#: How long a message takes to compute: so long that workers are seldom idle, and faults fall into batches.
ACT_SECONDS = (0.0, 0.002, 0.005)
#: Messages of a push, and the pause after it: a few hundred a second, which the workers can follow between faults.
PUSH_MESSAGES = (1, 60)
PAUSE_SECONDS = (0.05, 0.2)
#: The longest `eta`. Shorter than the patience of whoever waits for the group to be done.
LONGEST_DELAY_SECONDS = 2.0

#: What no other message has, over all producers of the process.
_numbers = count()


def next_number() -> int:
    """A number that no other message has."""
    return next(_numbers)


class Producer(threading.Thread):
    """Sends until told to `end`. `live` is the group as this producer reaches it."""

    def __init__(self, number: int, seed: int, live: LiveGroup) -> None:
        super().__init__(name=f"producer-{number}", daemon=True)
        self.number, self.live = number, live
        self.random = random.Random(f"producer {seed} {number}")
        #: All that it sent, in order. Read by others when the thread has ended.
        self.sent: list[Sent] = []
        self.unanswered = 0
        self._fresh = count()
        self._keys: dict[Way, list[str]] = {way: [self.new_key(way) for _ in range(KEYS)] for way in WAYS}
        self._used: dict[str, int] = {}
        #: What others asked for, for the next pushes: how many malformed messages, how many that raise.
        self.malformed: deque[int] = deque()
        self.raising: deque[int] = deque()
        #: And how many that end their worker.
        self.poison_messages: deque[int] = deque()
        #: And how many that hold the interpreter lock.
        self.holding: deque[int] = deque()
        #: And how many that hang at their first try.
        self.hanging: deque[int] = deque()
        self._ended = threading.Event()
        self._failure: Exception | None = None

    def end(self) -> None:
        """Send no more, and wait for what is being sent. Raises what ended the thread before its time."""
        self._ended.set()
        self.join()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                self.send_some()
                self._ended.wait(self.random.uniform(*PAUSE_SECONDS))
        except Exception as error:  # for whoever ends it: a run without its traffic proves nothing
            self._failure = error

    def send_some(self) -> None:
        """Messages in one way, and of the other kinds those whose turn has come."""
        way = self.random.choice(WAYS)
        self.send_acts(way, list(self.acts(way, self.random.randint(*PUSH_MESSAGES))))
        if self.malformed:
            self.send_junk(self.malformed.popleft())
        match self.random.randrange(10):
            case 0:
                self.send_notes(self.random.randint(1, 3))
            case 1:
                self.send_delayed(self.random.randint(1, 5))

    # The messages.

    def acts(self, way: Way, messages: int) -> Iterator[Act]:
        playing = way not in NAME_OF
        raising = self.raising.popleft() if self.raising and playing else 0
        killing = self.poison_messages.popleft() if self.poison_messages and playing else 0
        holding = self.holding.popleft() if self.holding and playing else 0
        hanging = self.hanging.popleft() if self.hanging and way == "stubborn" else 0
        for place in range(messages):
            raises = self.random.choice((1, ALWAYS)) if place < raising else 0
            if not playing and self.random.random() < RAISING_SHARE:
                raises = self.random.randint(1, MAX_RAISES) if way == "stubborn" else 1
                if way == "flow":
                    raises = self.random.choice((1, 1, ALWAYS))
            seconds = self.random.choice(ACT_SECONDS)
            act = Act(self.some_key(way), next(_numbers), raises, seconds, raising <= place < raising + killing)
            act.hangs = self.random.choice(("sleep", "spin")) if place < hanging else ""
            if raising + killing <= place < raising + killing + holding:
                # Of a key of its own: what comes of it is not known.
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

    def leave_keys(self, acts: Sequence[Act]) -> None:
        """Nothing more to the keys of these."""
        left = {act.key for act in acts}
        for way, keys in self._keys.items():
            self._keys[way] = [self.new_key(way) if key in left else key for key in keys]

    # The pushes.

    def send_acts(self, way: Way, acts: list[Act]) -> None:
        """Send in one way; what is not answered is sent again, under new numbers and keys, or as it is."""
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
        """`send_many`; returns those that may be in or not: those for one partition all or none."""
        sent = [sent_act(act) for act in acts]
        try:
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
        except (redis.RedisError, OSError):  # before anything was sent: it asks once for N
            return []
        self.sent += sent
        return []

    def push_acts(self, way: Way, acts: Sequence[Act]) -> list[Act]:
        partition = "0" if way == "astray" else INGRESS
        raws = [self.raw_act(act, way) for act in acts]
        sent = [sent_act(act, flows=way == "flow") for act in acts]
        return [] if self.push(partition, raws, sent) else list(acts)

    def push_again(self, acts: Sequence[Act]) -> list[Act]:
        """The same bytes until they are known to be in, and once or twice more, known or not; in order all the same."""
        raws = [self.raw_act(act, "again") for act in acts]
        pushes, is_in = self.random.randint(1, MAX_PUSHES), False
        while pushes > 0 or not is_in:
            is_in = bool(self.is_pushed(INGRESS, raws)) or is_in
            pushes -= 1
            if not is_in and self._ended.wait(self.random.uniform(*PAUSE_SECONDS)):
                break
        sent = [sent_act(act) for act in acts]
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
        name = NAME_OF.get(way, play.name)
        return raw_message(name, asdict(act), f"act-{act.number}", sent_at=time.time(), **headers)

    def push(self, partition: str, raws: Sequence[bytes], sent: Sequence[Sent]) -> bool:
        """One LPUSH, and the ledger's lines; False when it may be in or not: all or none."""
        is_in = self.is_pushed(partition, raws)
        if is_in is None:
            pack = f"push {next(_numbers)}"
            self.sent += [in_doubt(one, pack) for one in sent]
        elif is_in:
            self.sent += sent
        return is_in is not None

    def is_pushed(self, partition: str, raws: Sequence[bytes]) -> bool | None:
        """One LPUSH, as a foreign producer; None when there is no answer."""
        try:
            self.live.client.lpush(self.live.names.queue(partition), *raws)
        except redis.ResponseError:
            return False
        except (redis.RedisError, OSError):
            self.unanswered += 1
            return None
        return True


def sent_act(act: Act, *, flows: bool = False) -> SentAct:
    """The ledger's line of an act."""
    return SentAct(act.key, act.number, act.raises, act.kills, holds=act.hangs == "hold", flows=flows)
