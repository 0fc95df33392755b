"""A worker's measurements: collected after each commit, and added to the group's in Redis once a second; histories every ten seconds.

Best effort: after a failed write the next one follows a second later, and a killed worker loses its last second. Counts that must
be exact (`meta`) are written by the commits themselves.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

import redis

from celery_partitions.admin.status import node_name
from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import Delivery
from celery_partitions.model.errors import encodable, shortened
from celery_partitions.model.keys import key_bytes
from celery_partitions.model.messages import MAX_SECONDS, details_of
from celery_partitions.model.outcome import Outcome
from celery_partitions.store.leases import Share
from celery_partitions.store.measurements import add_measurements
from celery_partitions.store.names import Names
from celery_partitions.store.recent_commits import MAX_KEPT, RecentCommit
from celery_partitions.store.telemetry import (
    BATCH_MESSAGES,
    COMMIT_SECONDS,
    COMPUTATION_SECONDS,
    LATENCY_SECONDS,
    SINK,
    ComputationMeasurements,
    LastError,
    Measurements,
    Removal,
)
from celery_partitions.worker.history_writer import HistoryWriter
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.planned_commit import PendingCommit

logger = logging.getLogger("celery.worker.partitions")

#: How often measurements are written, in one call of about 0.2 ms.
WRITE_SECONDS = 1.0
#: How many messages of a batch are sampled for latency. Each costs about 2 µs, because its headers are read a second time.
MAX_SAMPLED = 4
#: How many calls of a batch with several computations, or of calls in flight, are timed. Each stands for its neighbours.
MAX_TIMED = 16
#: An error is shortened to this length; its dead letter has the full text.
MAX_ERROR_CHARACTERS = 500
#: The limit for errors in the list of recent commits, of which a page reads twenty.
MAX_COMMIT_ERROR_CHARACTERS = 200


class Measurer:
    """Only the loop's thread calls it, except `follow`. A failed write never raises."""

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        computations: Mapping[str, Computation],
        worker: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client, self.names, self.computations, self.clock = client, names, computations, clock
        #: The worker's node name.
        self.node = node_name(worker)
        self.history = HistoryWriter(worker, computations, clock)
        #: Measurements since the last write, and the newest commits of each partition, oldest first.
        self.fresh: dict[str, Measurements] = {}
        self.commits: dict[str, deque[RecentCommit]] = {}
        self.of_computations: dict[str, ComputationMeasurements] = {}
        self._share = self._followed = Share({}, (), None)
        self._written_at = clock()
        self._fault = ""

    def follow(self, share: Share) -> None:
        """Take the worker's new share. The lease keeper's thread calls this."""
        self._share = share

    def committed(self, pending: PendingCommit, done: Mapping[str, int]) -> None:
        """Measure a commit that was answered. `done`: how many messages each computation processed."""
        owned, outcome = pending.owned, pending.outcome
        found, now = self._of(owned.partition), owned.server_now()
        commit_seconds = None
        if pending.sent is not None:  # else it was sent again after an outage, whose time is not a commit's
            commit_seconds = self.clock() - pending.began
            found.commit.observe(COMMIT_SECONDS, commit_seconds)
        if outcome.taken:
            found.batch.observe(BATCH_MESSAGES, outcome.taken)
        found.retried += pending.planned.retried
        count = len(outcome.done)
        if count:
            found.computation.observe(COMPUTATION_SECONDS, (outcome.ended - outcome.began[0]) / count, count)
            self._observe_latency(owned.partition, found, outcome, now)
            self._observe_computations(outcome, done)
            needed = sum(self._states_of(name) * many for name, many in done.items())
            found.cache_hits += max(0, needed - owned.cache.missed)
        found.cache_misses += owned.cache.missed
        owned.cache.missed = 0
        if outcome.emitted:
            self._count_pushes(outcome)
        if outcome.dead or outcome.failures:
            found.last_error = _last_error(outcome, now)
            self._count_failures(outcome, now)
        commits = self.commits.get(owned.partition)
        if commits is None:
            commits = self.commits[owned.partition] = deque(maxlen=MAX_KEPT)
        commits.append(self._commit(pending, now, commit_seconds))

    def fenced(self, partition: str) -> None:
        """Count a commit that was refused because another worker has taken over."""
        self._of(partition).fenced += 1

    def removed(self, owned: OwnedPartition) -> None:
        """Count that something other than a commit took messages out of the queue."""
        found = self._of(owned.partition)
        found.removals += 1
        found.last_removal = Removal(owned.server_now())

    def write_if_due(self) -> float | None:
        """Write measurements, and histories, if they are due. Returns the seconds until something is; None: there is nothing to write."""
        self._count_takeovers()
        left = self._written_at + WRITE_SECONDS - self.clock()
        if left > 0:
            return left if self.fresh else max(left, self._until_history())
        if not self.fresh and self._until_history() > 0:
            return self._until_history()
        return self.write()

    def write(self) -> float | None:
        """Write now. If that fails: keep the measurements and return the seconds until the next try."""
        self._written_at = self.clock()
        self._count_takeovers()
        try:
            if self.fresh:
                add_measurements(self.client, self.names, self.fresh, self.commits, self.of_computations)
                self.fresh, self.commits, self.of_computations = {}, {}, {}
            if self._until_history() <= 0:
                self.history.write(self.client, self.names, self._share.owned)
        except (redis.RedisError, OSError) as error:
            if str(error) != self._fault:  # log it once, however long it lasts
                self._fault = str(error)
                logger.info("cannot write measurements (%s); they are kept and written later", error)
            return WRITE_SECONDS
        self._fault = ""
        return None

    def _until_history(self) -> float:
        return self.history.seconds_until_due()

    def _commit(self, pending: PendingCommit, now: float, seconds: float | None) -> RecentCommit:
        outcome, planned = pending.outcome, pending.planned.commit
        return RecentCommit(
            at=now,
            commit_number=planned.commit_number or 0,
            worker=self.node,
            token=planned.lease.token,
            taken=outcome.taken,
            processed=len(outcome.done),
            failed=len(outcome.failures),
            dead=len(outcome.dead),
            forwarded=outcome.count_forwarded(),
            emitted=len(outcome.emitted),
            skipped=len(outcome.skipped),
            states=sum(map(len, outcome.states.values())),
            computation_seconds=outcome.ended - outcome.began[0] if outcome.done else 0.0,
            commit_seconds=seconds,
            error=shortened(_error_of(outcome)[0], MAX_COMMIT_ERROR_CHARACTERS) if outcome.dead or outcome.failures else "",
        )

    def _of(self, partition: str) -> Measurements:
        found = self.fresh.get(partition)
        if found is None:
            found = self.fresh[partition] = Measurements()
        return found

    def _of_computation(self, name: str) -> ComputationMeasurements:
        found = self.of_computations.get(name)
        if found is None:
            found = self.of_computations[name] = ComputationMeasurements()
        return found

    def _observe_computations(self, outcome: Outcome, done: Mapping[str, int]) -> None:
        """Count what each computation processed, and how long its calls took."""
        for name, count in (*done.items(), *outcome.fused.items()):
            self._of_computation(name).processed += count
            self.history.ran.add(name)
        self.history.processed += len(outcome.done)
        for computation in outcome.together:
            self._of_computation(computation.name).batches += 1
        if len(done) == 1 and not outcome.ends:
            (name,) = done
            seconds = (outcome.ended - outcome.began[0]) / done[name]
            self._of_computation(name).computation.observe(COMPUTATION_SECONDS, seconds, done[name])
            return
        began, ends, many = outcome.began, outcome.ends, len(outcome.done)
        samples = min(many, MAX_TIMED)
        for number in range(samples):
            start, stop = many * number // samples, many * (number + 1) // samples
            at = (start + stop) // 2
            end = ends[at] if ends else began[at + 1] if at + 1 < many else outcome.ended
            found = self._of_computation(outcome.done[at].computation.name)
            found.computation.observe(COMPUTATION_SECONDS, max(0.0, end - began[at]), stop - start)

    def _count_pushes(self, outcome: Outcome) -> None:
        """Count what the commit pushed into Redis lists and streams."""
        pushed = Counter([one.sink.name for one in outcome.emitted if type(one) is Delivery])
        for name, count in pushed.items():
            self._of_computation(SINK + name).processed += count
            self.history.ran.add(SINK + name)

    def _count_failures(self, outcome: Outcome, now: float) -> None:
        last: dict[str, tuple[str, str | None, str | None]] = {}
        for failure in outcome.failures:
            name = failure.item.computation.name
            self._of_computation(name).failed += 1
            last[name] = (failure.error, failure.item.key, failure.item.envelope.headers.id)
        for park in outcome.parked.values():
            if not park.used_up:
                self._of_computation(park.failure.item.computation.name).retried += 1
        for item, _ in outcome.dead:
            computation = None if item.task is None else self.computations.get(item.task)
            if computation is not None:
                self._of_computation(computation.name).dead += 1
                last[computation.name] = (item.error, item.key, item.message_id)
        for name, error in last.items():
            self._of_computation(name).last_error = _error(*error, now)

    def _states_of(self, name: str) -> int:
        computation = self.computations.get(name)
        return 0 if computation is None else len(computation.stateful)

    def _count_takeovers(self) -> None:
        share = self._share
        if share is not self._followed:
            for partition, token in share.owned.items():
                if self._followed.owned.get(partition) != token:
                    self._of(partition).takeovers += 1
            self._followed = share

    def _observe_latency(self, partition: str, found: Measurements, outcome: Outcome, now: float) -> None:
        """Sample a few messages, evenly spread over the batch; each counts for its neighbours."""
        done, count = outcome.done, len(outcome.done)
        samples = min(count, MAX_SAMPLED)
        for number in range(samples):
            start, end = count * number // samples, count * (number + 1) // samples
            work = done[(start + end) // 2]
            if work.envelope.headers.eta is not None:
                continue
            details = details_of(work.raw)
            sent_at = details.sent_at
            if isinstance(sent_at, int | float) and 0 <= sent_at <= MAX_SECONDS and details.timer is None:
                seconds, name = max(0.0, now - sent_at), work.computation.name
                found.latency.observe(LATENCY_SECONDS, seconds, end - start)
                self._of_computation(name).latency.observe(LATENCY_SECONDS, seconds, end - start)
                self.history.observe(partition, name, seconds, end - start)


def _last_error(outcome: Outcome, now: float) -> LastError:
    return _error(*_error_of(outcome), now)


def _error(text: str, key: str | None, message_id: str | None, now: float) -> LastError:
    shown_key = None if key is None else key_bytes(key).decode("utf-8", "backslashreplace")
    return LastError(shortened(text, MAX_ERROR_CHARACTERS), now, shown_key, None if message_id is None else encodable(message_id))


def _error_of(outcome: Outcome) -> tuple[str, str | None, str | None]:
    """The last error of an outcome, with its message's key and id. The outcome must have an error."""
    if outcome.dead:
        dead_letter_item, _ = outcome.dead[-1]
        return dead_letter_item.error, dead_letter_item.key, dead_letter_item.message_id
    failure = outcome.failures[-1]
    return failure.error, failure.item.key, failure.item.envelope.headers.id
