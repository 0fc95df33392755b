"""Some messages of one key that are called in order outside the loop's thread, and the outcomes of a partition's calls."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_partitions.model.computation import Computation
from celery_partitions.model.halving import NOT_HALVED, Halving
from celery_partitions.model.items import Item
from celery_partitions.model.outcome import Outcome, Slot, Unreadable
from celery_partitions.model.step_rules import StepRules

if TYPE_CHECKING:
    from celery_partitions.worker.owned import OwnedPartition

Slots = dict[str, dict[str, "Slot | Unreadable"]]


@dataclass(slots=True, eq=False)
class KeyRun:
    """Some messages of one key, to be called in order. The partition loop makes it; while it runs only the call thread changes `slots`."""

    owned: OwnedPartition
    key: str
    #: The messages, oldest first. Those that are committed leave both lists; only the partition loop changes them.
    items: list[Item]
    #: The key's states, by computation name and key. They are not in the partition's cache meanwhile.
    slots: Slots
    #: The states' bytes in Redis, by computation name.
    base: dict[str, bytes | None]
    #: The stage that waits, whose `concurrency` it uses.
    stage: Computation
    #: The number of the first message's try, and its error if it exceeded its time limit before and is not called again.
    attempt: int = 1
    #: The mailbox with its messages, once they are not in the queue: its key's, or an own line ("": its key's).
    place: str = ""
    failed: str | None = None
    #: The first message has waited long enough for a readable state.
    waited_out: bool = False
    #: The first message comes at a time that its rate limit has promised.
    waited: bool = False
    #: All messages are for one call of a batch computation.
    together: bool = False
    halving: Halving = NOT_HALVED
    #: There are messages of another computation behind them: the key's next call need not wait for more.
    is_followed: bool = False
    #: Digest of its first message, if that was noted in Redis because a worker died, and other calls go on meanwhile.
    noted: str | None = None
    #: Its messages are still in the queue, because their batch is not committed.
    from_queue: bool = True
    #: Bytes of its messages and states.
    size: int = 0
    #: By the loop's clock.
    began: float = field(init=False)
    #: What became of its first messages, in order. Not committed yet. Only the partition loop uses it.
    outcomes: list[Outcome] = field(default_factory=list)
    #: None of its calls runs or will begin. Only the partition loop uses it.
    is_over: bool = False
    cancelled: bool = False
    #: The next message must not start any more.
    stopping: bool = False
    #: Only the call thread sets these: it has a task for the run; the task makes calls, because the key's earlier run has ended; no call of the
    #: run is being made, and none will be.
    has_task: bool = False
    is_calling: bool = False
    has_ended: bool = False

    def __post_init__(self) -> None:
        self.place, self.began = self.place or self.key, self.owned.clock()

    @property
    def raws(self) -> list[bytes]:
        return [item.raw for item in self.items]


def is_dropped(run: KeyRun) -> bool:
    """Whether the partition loop cancelled it meanwhile."""
    return run.cancelled


class Ended:
    """Outcomes of one partition's calls, for the partition loop to collect. The call thread adds them."""

    def __init__(self) -> None:
        self._outcomes: deque[tuple[KeyRun, Outcome | None, bool]] = deque()
        #: Runs that the call thread has not finished. Only the call thread changes it.
        self.running = 0
        #: When the oldest of the outcomes was added; and when the newest was, or a call began for which there was no room before (the loop's clock).
        self.since: float | None = None
        self.last = 0.0
        #: The partition loop was woken for them.
        self.is_announced = False
        #: The rules of the partition's calls, and until when they are used. Only the call thread uses them.
        self.rules: StepRules | None = None
        self.rules_until = 0.0

    def add(self, run: KeyRun, outcome: Outcome | None, is_over: bool) -> None:
        """`outcome`: None after an internal error, or if the run stopped before its next message."""
        self.last = run.owned.clock()
        if self.since is None:
            self.since = self.last
        self._outcomes.append((run, outcome, is_over))

    def collect(self) -> list[tuple[KeyRun, Outcome | None, bool]]:
        self.is_announced = False  # first: what is added from here on is announced
        self.since = None
        return [self._outcomes.popleft() for _ in range(len(self._outcomes))]

    def __len__(self) -> int:
        return len(self._outcomes)
