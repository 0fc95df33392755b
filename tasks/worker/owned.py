"""A partition that this worker owns: its lease, known messages, parked keys and states in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from msgspec.structs import replace

from celery_partitions.model.effects import READY, ParkedKey
from celery_partitions.model.fairness import LONG_SECONDS, TURN_SECONDS
from celery_partitions.model.items import Reading
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.own_lines import is_own_line
from celery_partitions.model.task_lines import partition_of_line
from celery_partitions.model.topology import Topology
from celery_partitions.store.commits import Commit, Reply
from celery_partitions.store.deduplication import SeenIds
from celery_partitions.store.leases import Lease
from celery_partitions.store.outbox import Outbox
from celery_partitions.worker.batch import Batch, Verdict
from celery_partitions.worker.partition_calls import PartitionCalls
from celery_partitions.worker.partition_state import TRANSITIONS, Event, ImpossibleEvent, State
from celery_partitions.worker.state_cache import StateCache

if TYPE_CHECKING:
    from celery_partitions.worker.resizing import Cohort, Move

#: The least number of messages to ask for after a short batch.
MIN_ASKED = 16
#: How many parked keys that fall due are read at once, if not all are in memory.
DUE_PAGE = 1000


@dataclass(slots=True)
class OwnedPartition:
    """A partition whose lease this worker holds."""

    lease: Lease
    #: The monotonic clock of the loop.
    clock: Callable[[], float]
    partition: str = field(init=False)
    #: The partition's number; None for the ingress.
    number: int | None = field(init=False)
    #: Only `on` changes it.
    state: State = State.FORGOTTEN
    #: Parked keys, and how many messages wait for each. Not all of them, if they are very many.
    parked: dict[str, ParkedKey] = field(default_factory=dict)
    #: Whether `parked` has every parked key. If not, a batch's keys are looked up, and keys that fall due are read from Redis' index.
    knows_all_parked: bool = True
    #: Keys that are due from this time on may be missing in `parked`. Infinity: none is.
    unread_due: float = math.inf
    mailbox_lengths: dict[str, int] = field(default_factory=dict)
    #: The parked keys that wait only for their turn.
    in_turn: set[str] = field(default_factory=set)
    #: Parked keys whose next retry shares its turn with no other, because one of their messages could not.
    alone: set[str] = field(default_factory=set)
    #: The parked keys that are lines of tasks.
    lines: set[str] = field(default_factory=set)
    #: Those that are own lines of computations.
    own_lines: set[str] = field(default_factory=set)
    #: Parked keys and lines whose messages wait for a task that this worker does not know, with the task.
    lacks: dict[str, str] = field(default_factory=dict)
    #: Whether parked keys were loaded under this lease.
    parked_loaded: bool = False
    #: A heap of (due time, parked key), without keys that wait for an operator. An entry that contradicts `parked` is out of date.
    dues: list[tuple[float, str]] = field(default_factory=list)
    #: By how many seconds retries of parked keys are ahead of the queue, counted while both had work.
    retries_lead: float = 0.0
    #: How many messages a hot key's next turn reads.
    turn_messages: int = 2
    #: Ids seen before, for the batch's computations with `deduplicate`.
    seen: dict[str, SeenIds] = field(default_factory=dict)
    #: No messages are taken until an operator resumes the partition.
    paused: bool = False
    #: How many messages must still be recorded before they run (isolation).
    to_isolate: int = 0
    #: Digests of the messages that were recorded and are not committed yet.
    trying: list[str] = field(default_factory=list)
    #: The whole process stalled for long during the last step.
    stalled: bool = False
    commit_number: int = 0
    edit_version: int = 0
    messages: list[bytes] = field(default_factory=list)
    next_due: float | None = None
    #: Server's clock minus this process's monotonic clock, seconds.
    clock_offset: float = 0.0
    cache: StateCache = field(default_factory=StateCache)
    #: The topology by which its messages are applied. None: not known (see `resizing`).
    topology: Topology | None = None
    #: When the partition must be attended to for a resize, by the loop's clock, although it has no message.
    attend_at: float = math.inf
    #: When to look for messages to admit.
    admit_at: float = math.inf
    #: During a resize: its keys on their way; that it waited for keys of others; the messages that wait for older ones, and how often to look.
    move: Move | None = None
    waits: bool = False
    cohort: Cohort | None = None
    admit_seconds: float = 0.0
    #: How to read this partition's messages; created with the first batch.
    reading: Reading | None = None
    #: After an error: do nothing before this time of the monotonic clock.
    rest_until: float = 0.0
    #: How much of the loop's time the partition has used (see `turns`).
    used_seconds: float = 0.0
    #: During the search for a message whose outcome cannot be written (see `unwritable`): the batch limit, and the message once found.
    largest_batch: int | None = None
    unwritable: tuple[str, Verdict] | None = None
    #: The error that was logged last; "" after a successful commit.
    fault: str = ""
    #: The commit number when the pending blocking peek began. Its message is the queue's head only while this number is current.
    watched_at: int = -1
    #: Its empty queue got a message, and this worker has committed nothing since.
    had_message: bool = False
    #: What its commits send to other servers. None: there is one server.
    outbox: Outbox | None = None
    #: Its calls outside the loop. None: no computation of this process waits.
    calls: PartitionCalls | None = None

    def __post_init__(self) -> None:
        self.partition = self.lease.partition
        self.number = int(self.partition) if self.partition.isdigit() else None

    def on(self, event: Event) -> None:
        """Note that something happened. Raises `ImpossibleEvent`."""
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            raise ImpossibleEvent(f"a partition that is {self.state.name} cannot have the event {event.name}: {event.value}")
        self.state = following

    @property
    def is_searching(self) -> bool:
        """Whether a commit could not be written, and the message at fault is searched (see `unwritable`)."""
        return self.largest_batch is not None or self.unwritable is not None

    @property
    def must_peek(self) -> bool:
        """The head of the queue is not known."""
        return self.state in (State.FORGOTTEN, State.UNSURE)

    @property
    def must_load_parked(self) -> bool:
        """The parked keys in memory do not count."""
        return self.state in (State.FORGOTTEN, State.PEEKED)

    def server_now(self) -> float:
        return self.clock() + self.clock_offset

    def has_waited_out(self, record: ParkedKey, seconds: float) -> bool:
        """Whether a mailbox has waited long enough for a task or a state that only other code knows."""
        return record.waits_for_code and self.server_now() >= record.since + seconds

    def is_where_it_was(self, reply: Reply) -> bool:
        """Whether a peek shows the state that this worker left. If not, Redis lost data or an operator changed something."""
        return (reply.commit_number, reply.edit_version) == (self.commit_number, self.edit_version)

    def take_reply(self, reply: Reply) -> None:
        """Take over what every answer of the commit script contains."""
        is_changed = reply.edit_version != self.edit_version
        self.commit_number, self.edit_version = reply.commit_number, reply.edit_version
        self.messages = reply.messages
        self.next_due = reply.next_due
        self.paused, self.to_isolate = reply.paused, reply.to_isolate
        if self.calls is not None:
            self.calls.must_isolate = reply.to_isolate > 0
        self.clock_offset = reply.now - self.clock()
        if is_changed:
            # A peek, or a commit that was sent again after a lost reply, may be the first to show an operator's change. Adopting its
            # edit version without reloading would let the next commit overwrite what the operator wrote.
            self.cache = StateCache()
            if self.calls is not None:
                self.calls.doubtful = True
        self.on(Event.CHANGED if is_changed else Event.READ)

    def take_parked(self, parked: dict[str, ParkedKey], mailbox_lengths: dict[str, int], *, are_all: bool = True) -> None:
        """Replace the parked keys by those in Redis. `are_all`: there are no others."""
        if not self.parked_loaded:  # this worker may have another version of the code
            parked = {key: replace(fact, due=0.0) if fact.waits_for_code else fact for key, fact in parked.items()}
        self.parked, self.mailbox_lengths, self.parked_loaded = parked, mailbox_lengths, True
        self.knows_all_parked, self.unread_due = are_all, math.inf if are_all else 0.0
        self.lines = {key for key in parked if partition_of_line(key) is not None}
        self.own_lines = set(filter(is_own_line, parked))
        self.lacks = {key: fact.task for key, fact in parked.items() if fact.reason == "unknown-task" and fact.task}
        self.in_turn = {key for key, record in parked.items() if record.waits_its_turn}
        self.on(Event.LOADED)
        self.index_parked()

    def learn_parked(self, parked: Mapping[str, ParkedKey], mailbox_lengths: Mapping[str, int]) -> None:
        """Add parked keys that were not in memory."""
        self.parked.update(parked)
        self.mailbox_lengths.update(mailbox_lengths)
        for key, record in parked.items():
            self.note_parked(key, record)

    def note_parked(self, key: str, record: ParkedKey) -> None:
        """Note what follows from a record that is new in `parked`."""
        if partition_of_line(key) is not None:
            self.lines.add(key)
        elif is_own_line(key):
            self.own_lines.add(key)
        if record.reason == "unknown-task" and record.task:
            self.lacks[key] = record.task
        else:
            self.lacks.pop(key, None)
        (self.in_turn.add if record.waits_its_turn else self.in_turn.discard)(key)
        self.note_due(key, record)
        if self.calls is not None:
            self.calls.note_parked(key, record)

    def must_read_due(self) -> bool:
        """Whether to read from Redis which keys are due, because few of those in memory are."""
        now = self.server_now()
        if self.unread_due > now:
            return False
        heaps = [self.dues] if self.calls is None else [self.dues, self.calls.dues]
        return all(len(heap) < DUE_PAGE or heap[0][0] > now for heap in heaps)

    def index_parked(self) -> None:
        """Note when the parked keys are due, and who retries each."""
        takes, parked = None if self.calls is None else self.calls.takes, self.parked
        self.dues = [(fact.due, key) for key, fact in parked.items() if fact.due is not None and not (takes and takes(fact))]
        heapify(self.dues)
        if self.calls is not None:
            self.calls.take_parked(parked)

    def note_due(self, key: str, record: ParkedKey) -> None:
        """Remember when a parked key is due, if it is not held."""
        if record.due is None:
            return
        if self.calls is not None and self.calls.takes(record):
            self.calls.note_due(key, record.due)
        else:
            heappush(self.dues, (record.due, key))

    def retry_limited(self) -> None:
        """Let keys that wait for a rate limit ask again now, because a limit was changed."""
        for key, record in self.parked.items():
            if record.reason == "rate":
                self.parked[key] = record = replace(record, due=0.0)
                self.note_due(key, record)

    @property
    def first_due(self) -> tuple[float, str] | None:
        """The due time and name of the parked key that is due first."""
        while self.dues:
            due, key = self.dues[0]
            known = self.parked.get(key)
            if known is not None and known.due == due:
                return due, key
            heappop(self.dues)
        return None

    def is_turn_of_retries(self) -> bool:
        """Whether a parked key is due and goes before the queue now. A queue with messages gets at least half of the time; it also goes before a
        hot key that has had as much. A queue whose calls have no room leaves its turn to the parked keys."""
        if self.due_key() is None:
            return False
        if not self.messages or (self.calls is not None and not self.calls.can_take(self.calls)):
            return True
        return self.retries_lead < 0 or (self.retries_lead == 0 and not self.hot_key_is_due)

    def charge_turn(self, seconds: float, batch: Batch | None, *, at_most: float) -> None:
        """Record how long a turn took. `at_most`: the largest lead, in seconds, that retries or the queue can build up."""
        retry = batch is not None and batch.mailbox_of is not None
        others_wait = bool(self.messages) if retry else self.due_key() is not None
        lead = self.retries_lead + (seconds if retry else -seconds)
        if batch is not None and batch.ready:  # then the queue has one turn, which may only move more messages of the hot key
            lead = min(lead, 0.0)
        self.retries_lead = max(-at_most, min(lead, at_most)) if others_wait else 0.0

    def turn_seconds(self, batch: Batch, longest: float) -> float:
        """How long the step of a batch may take. `longest`: without fairness between keys."""
        shared = batch.mailbox_of is None and self.hot_key_is_due
        return min(longest, batch.seconds, TURN_SECONDS if batch.ready else LONG_SECONDS if shared else longest)

    @property
    def hot_key_is_due(self) -> bool:
        """Whether the next parked key that is due is a hot one."""
        return self.first_due is not None and self.parked[self.first_due[1]].reason == READY and self.due_key() is not None

    def due_key(self) -> str | None:
        """The parked key whose retry is most overdue; None if none is due."""
        first = self.first_due
        return first[1] if first is not None and first[0] <= self.server_now() else None

    def due_keys(self, limit: int) -> list[str]:
        """The parked keys to retry in one turn, the most overdue first; at most `limit`."""
        chosen: dict[str, tuple[float, str]] = {}
        while len(chosen) < limit and (key := self.due_key()) is not None:
            may_share = self.may_share(key)
            if chosen and not may_share:
                break
            chosen[key] = heappop(self.dues)
            if not may_share:
                break
        for due in chosen.values():  # their entries count until a commit changes their records
            heappush(self.dues, due)
        return list(chosen)

    def may_share(self, key: str) -> bool:
        """Whether a parked key may be retried in one turn with others."""
        is_line = key in self.lines or key in self.own_lines
        return not is_line and key not in self.alone and self.parked[key].reason not in ("gather", READY, "unknown-task")

    def seconds_to_next_due(self) -> float | None:
        """Seconds until a delayed message or a retry is due that may be taken then; None if there is none."""
        may_take, may_retry = (True, True) if self.calls is None else (self.calls.can_take(self.calls), self.calls.may_start)
        dues = [self.first_due[0]] if may_retry and self.first_due is not None else []
        if may_take and self.next_due is not None:
            dues.append(self.next_due)
        now = self.server_now()
        if may_retry and now < self.unread_due < math.inf:
            dues.append(self.unread_due)
        return max(0.0, min(dues) - now) if dues else None

    @property
    def next_attention(self) -> float:
        """When a resize asks something of the partition, by the loop's clock."""
        return min(self.attend_at, self.admit_at)

    def is_ready(self) -> bool:
        """Whether there is work for this partition now."""
        if self.rest_until > self.clock() or self.state in (State.COMMITTING, State.CLOSED):
            return False
        if self.next_attention <= self.clock():
            return True
        may_take = may_retry = True
        if self.calls is not None:
            if self.calls.seconds_to_turn(self) <= 0:
                return True
            may_take, may_retry = self.calls.can_take(self.calls), self.calls.may_start
        if self.state is not State.KNOWN:
            return True
        if self.paused:
            return False
        if (self.messages and may_take) or (may_retry and (self.due_key() is not None or self.must_read_due())):
            return True
        return may_take and self.has_due

    @property
    def has_due(self) -> bool:
        """Whether a timer or a delayed message is due that has not joined the queue."""
        return self.next_due is not None and self.next_due <= self.server_now()

    def forget_all(self) -> None:
        """Discard what is in memory and reload it from Redis, for example after a refused commit."""
        self.cache = StateCache()
        self.messages = []
        self.topology = None
        self.on(Event.FORGET)
        if self.outbox is not None:
            self.outbox.forget()
        if self.calls is not None:
            self.calls.doubtful = True

    def look_again(self) -> None:
        """Peek before anything else: the queue may have changed."""
        self.on(Event.NEWS)

    def notify(self, edit_version: int, paused: bool) -> None:
        """Reload the partition if an operator changed it, according to the lease keeper's share."""
        if edit_version > self.edit_version or paused != self.paused:
            self.forget_all()

    def messages_after(self, commit: Commit) -> list[bytes]:
        """The known messages of the queue that a commit leaves there."""
        return self.messages if commit.mailbox_of is not None or not commit.taken else self.messages[commit.taken :]

    def follow(self, outcome: Outcome, parked: dict[str, ParkedKey], ended: Iterable[str], taken_of: Mapping[str, int]) -> None:
        """Update memory with what a commit wrote to Redis. `taken_of`: how many messages it took from each mailbox."""
        self.fault = ""
        self.trying = []
        self.cache.committed(outcome.states)
        self.cache.may_hold_unreadable(bool(outcome.dead))
        for key, raws in outcome.mailed.items():
            self.mailbox_lengths[key] = self.mailbox_lengths.get(key, 0) + len(raws)
        for key, count in taken_of.items():
            self.mailbox_lengths[key] = self.mailbox_lengths.get(key, 0) - count
        self.parked.update(parked)
        for key in ended:
            for known in (self.parked, self.lacks, self.mailbox_lengths):
                known.pop(key, None)
            for noted in (self.lines, self.own_lines, self.alone, self.in_turn):
                noted.discard(key)
            if self.calls is not None:
                self.calls.running.discard(key)
        for key, fact in parked.items():
            self.note_parked(key, fact)
