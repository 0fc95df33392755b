"""Checks liveness: while one partition is never idle, how long do messages on the other partitions wait?"""

from __future__ import annotations

import time
from collections import deque
from itertools import count

import redis

from celery_partitions.model.keys import partition_of
from tests.chaos.acts import ALWAYS, Act
from tests.chaos.application import play
from tests.chaos.traffic import TO, Producer, Way, next_number, sent_act
from tests.fundamentals.live import LiveGroup

#: The partition that is never idle, and the minimum length of its queue.
BUSY_PARTITION = "0"
BACKLOG = 400
#: A message to another partition is for a plain computation, or for one whose calls wait.
PROBES: tuple[Way, ...] = ("bulk", "async")
#: How long one of its messages takes.
BUSY_SECONDS = 0.003
#: The interval between two checks whether a message was applied.
LOOK_SECONDS = 0.1
#: The longest allowed wait of a message with none before it, while the partition is healthy: it keeps its owner, is not paused, and the server
#: answers. Longer than the longest freeze of a worker, several messages in a row that hold the interpreter lock, and the delays of a busy
#: machine.
MAX_WAIT_SECONDS = 20.0
#: It may wait this much longer for each message before it: the producers fill the same partitions, and a fault leaves a backlog. A message
#: takes up to 5 ms, and a partition has at least a fifth of its worker's time; a busy machine needs several times as long.
SECONDS_AHEAD = 0.1


class Prober(Producer):
    """Keeps one partition busy, sends one message at a time to each other partition, and waits until they are applied."""

    def __init__(self, seed: int, live: LiveGroup) -> None:
        super().__init__(99, seed, live)
        self.name = "prober"
        #: Requested numbers of messages that always raise, each with its own key.
        self.crowds: deque[int] = deque()
        #: How long messages waited while their partition was healthy, and how many others were before them. `late` describes those that
        #: waited too long.
        self.waits: list[tuple[float, int]] = []
        self.late: list[str] = []
        self._salt = count()

    def send_some(self) -> None:
        try:
            self.keep_busy()
            for partition in range(self.live.settings.partitions):
                if str(partition) != BUSY_PARTITION:
                    self.probe(str(partition))
        except (redis.RedisError, OSError):
            return

    def keep_busy(self) -> None:
        if self.crowds:
            self.send_to(BUSY_PARTITION, [Act(self.key_in(BUSY_PARTITION), next_number(), ALWAYS) for _ in range(self.crowds.popleft())])
        if self.length_of(BUSY_PARTITION) < BACKLOG:
            keys = [self.key_in(BUSY_PARTITION) for _ in range(20)]
            acts = [Act(self.random.choice(keys), next_number(), seconds=BUSY_SECONDS) for _ in range(BACKLOG)]
            for _ in range(self.poison_messages.popleft() if self.poison_messages else 0):
                acts[self.random.randrange(len(acts))].kills = True
            self.send_to(BUSY_PARTITION, acts)

    def send_to(self, partition: str, acts: list[Act], way: Way = "bulk") -> bool:
        return self.push(partition, [self.raw_act(act, way) for act in acts], [sent_act(act, way) for act in acts])

    def probe(self, partition: str) -> None:
        act, ahead, way = Act(self.key_in(partition), next_number()), self.length_of(partition), self.random.choice(PROBES)
        if not self.send_to(partition, [act], way) or self.sent[-1] != sent_act(act, way):
            return
        since, owner = time.monotonic(), self.owner_of(partition)
        while not self._ended.is_set():
            try:
                is_applied = self.is_applied(act, way)
            except (redis.RedisError, OSError):
                is_applied = False
            before, owner = owner, self.owner_of(partition)
            if owner is None or owner != before:  # it is not healthy, or became so just now
                since = time.monotonic()
            waited = time.monotonic() - since
            if is_applied or waited > MAX_WAIT_SECONDS + ahead * SECONDS_AHEAD:
                self.waits.append((waited, ahead))
                if not is_applied:
                    text = f"message {act.number} on partition {partition} waited for {waited:.0f} s, and {owner} owned it"
                    self.late.append(f"{text}; {ahead} messages were before it, {self.length_of(partition)} are in the queue now")
                return
            self.keep_busy_quietly()
            self._ended.wait(LOOK_SECONDS)

    def keep_busy_quietly(self) -> None:
        try:
            self.keep_busy()
        except (redis.RedisError, OSError):
            return

    def length_of(self, partition: str) -> int:
        return int(self.live.client.llen(self.live.names.queue(partition)))  # type: ignore[arg-type]

    def owner_of(self, partition: str) -> str | None:
        """The owner that works on the partition; None if there is none, the partition is paused, or the server does not answer."""
        try:
            status = self.live.status()[self.live.names.queue(partition)]
        except (redis.RedisError, OSError):
            return None
        return None if status.paused or status.away else status.owner

    def is_applied(self, act: Act, way: Way) -> bool:
        state = self.live.group.states.get(TO.get(way, play).computation, act.key)
        return state is not None and act.number in state.numbers

    def key_in(self, partition: str) -> str:
        """A new key of this partition."""
        number = int(partition)
        return next(key for n in self._salt if partition_of(key := f"probe-{n}", self.live.settings.partitions) == number)
