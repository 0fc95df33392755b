"""A group's Prometheus metrics: every exported name and its help text. Made from an overview; reads nothing itself.

Metrics have the labels `group` and `partition` (a number, or `ingress`); those of computations have `computation` and attention has `rule` in
the place of `partition`. Never a key.
Counters and histograms count since the group began. They are kept in Redis, so a worker's restart does not reset them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from celery_partitions.admin.overview import Overview, PartitionOverview
from celery_partitions.store.telemetry import (
    BATCH_MESSAGES,
    COMMIT_SECONDS,
    COMPUTATION_SECONDS,
    LATENCY_SECONDS,
    ComputationMeasurements,
    Histogram,
)

PREFIX = "celery_partitions_"
#: Whether the group could be read. It has only the label `group`.
UP = PREFIX + "up"
LABELS = ("group", "partition")


class _Measured(NamedTuple):
    #: Without the prefix, and without `_total`, which is added to counters.
    name: str
    help: str
    #: None if the value is not known; it is then not exported.
    of: Callable[[PartitionOverview], float | None]


class _Histogram(NamedTuple):
    name: str
    help: str
    bounds: Sequence[float]
    of: Callable[[PartitionOverview], Histogram]


COUNTERS = (
    _Measured("messages_processed", "Messages applied to their key's state.", lambda one: one.status.processed),
    _Measured("messages_failed", "Attempts in which the computation raised.", lambda one: one.failed),
    _Measured("messages_retried", "Retries of messages after a failed attempt.", lambda one: one.measurements.retried),
    _Measured("messages_forwarded", "Messages forwarded to the queue of their key's partition.", lambda one: one.forwarded),
    _Measured("messages_emitted", "Outputs of pipelines.", lambda one: one.emitted),
    _Measured("messages_deduplicated", "Messages dropped because their id had been seen before.", lambda one: one.deduplicated),
    _Measured("messages_skipped", "Messages dropped because they had expired or had been revoked.", lambda one: one.skipped),
    _Measured("messages_late", "Values dropped because they came after their windows were closed.", lambda one: one.late),
    _Measured("messages_dead_lettered", "Messages that became dead letters.", lambda one: one.dead_lettered),
    _Measured("lease_takeovers", "Times that a worker took over the partition.", lambda one: one.measurements.takeovers),
    _Measured("fenced_commits", "Commits refused because another worker had taken over the partition.", lambda one: one.measurements.fenced),
    _Measured(
        "foreign_removals",
        "Times that something other than the partition's worker removed messages from its queue.",
        lambda one: one.measurements.removals,
    ),
    _Measured("state_cache_hits", "Needed states that were in the worker's memory.", lambda one: one.measurements.cache_hits),
    _Measured("state_cache_misses", "Needed states that were read from Redis.", lambda one: one.measurements.cache_misses),
)
GAUGES = (
    _Measured("queue_length", "Messages in the partition's queue.", lambda one: one.status.length),
    _Measured("delayed_messages", "Messages that wait for their eta.", lambda one: one.status.delayed),
    _Measured(
        "oldest_message_age_seconds",
        "Seconds since the oldest message in the queue was sent, by its sender's clock. 0 if the queue is empty, absent if the message has no time.",
        lambda one: one.oldest_age_seconds if one.status.length else 0.0,
    ),
    _Measured("dead_letters", "Dead letters that are kept.", lambda one: one.status.dead),
    _Measured("parked_keys", "Keys whose messages wait for a retry or an operator.", lambda one: one.status.parked),
    _Measured("running_keys", "Keys with a call in flight, or that wait for their turn (rate limits, hot keys), at the last commit.", lambda one: one.status.running),
    _Measured("state_keys", "Keys that have a state.", lambda one: one.status.keys),
    _Measured("paused", "1 while an operator or a failure policy has paused the partition.", lambda one: one.status.paused),
    _Measured("leases_held", "1 while a worker owns the partition.", lambda one: one.status.owner is not None),
)
STATE_BYTES_HELP = "Estimated memory that the partition's states take in Redis, measured every 30 s."
HISTOGRAMS = (
    _Histogram(
        "end_to_end_seconds",
        "From sending a message, by its sender's clock, to its commit. Measured on a few messages of each batch.",
        LATENCY_SECONDS,
        lambda one: one.measurements.latency,
    ),
    _Histogram("batch_messages", "Messages per commit.", BATCH_MESSAGES, lambda one: one.measurements.batch),
    _Histogram(
        "commit_seconds",
        "From sending a commit to handling its reply. A worker of several partitions computes meanwhile.",
        COMMIT_SECONDS,
        lambda one: one.measurements.commit,
    ),
    _Histogram(
        "computation_seconds",
        "Time to compute one message: the batch's time divided by its messages.",
        COMPUTATION_SECONDS,
        lambda one: one.measurements.computation,
    ),
)


class Whole(NamedTuple):
    """What concerns the whole group. Flower exports it; a worker exports only its partitions."""

    #: Rule of the attention list → how many partitions, keys or workers it concerns.
    attention: Mapping[str, int]
    computations: Mapping[str, ComputationMeasurements]
    #: Computation → calls in flight, and how many there may be, over all workers.
    calls: Mapping[str, tuple[int, int]]
    #: Redis list or stream that is a sink → outputs that were pushed into it.
    pushed: Mapping[str, int]


NO_WHOLE = Whole({}, {}, {}, {})
ATTENTION = PREFIX + "attention"
ATTENTION_HELP = "How many partitions, keys, messages or workers need an operator, by rule. 0: none."
#: Counters of a computation: name, help, field of its measurements.
OF_COMPUTATIONS = (
    ("computation_messages_processed", "Messages that the computation applied.", "processed"),
    ("computation_messages_failed", "Attempts in which the computation raised.", "failed"),
    ("computation_messages_dead_lettered", "Messages of the computation that became dead letters.", "dead"),
    ("computation_batches", "Calls of a batch computation. Its processed messages divided by them: how many a call gets.", "batches"),
)
PUSHED, PUSHED_HELP = "sink_outputs", "Outputs that workers pushed into a Redis list or stream that is a pipeline's sink."
CALLS = (
    ("calls_in_flight", "Calls in flight of a computation that waits, over all workers."),
    ("calls_limit", "How many calls of that computation may be in flight, over all workers."),
)


def of_group(group: str, whole: Whole) -> Iterator[Metric]:
    """The metrics of the whole group."""
    attention = GaugeMetricFamily(ATTENTION, ATTENTION_HELP, labels=["group", "rule"])
    for rule, count in whole.attention.items():
        attention.add_metric([group, rule], count)
    yield attention
    for name, text, measured in OF_COMPUTATIONS:
        counter = CounterMetricFamily(PREFIX + name, text, labels=["group", "computation"])
        for computation, found in whole.computations.items():
            counter.add_metric([group, computation], getattr(found, measured))
        yield counter
    pushed = CounterMetricFamily(PREFIX + PUSHED, PUSHED_HELP, labels=["group", "sink"])
    for sink, count in whole.pushed.items():
        pushed.add_metric([group, sink], count)
    yield pushed
    for number, (name, text) in enumerate(CALLS):
        gauge = GaugeMetricFamily(PREFIX + name, text, labels=["group", "computation"])
        for computation, calls in whole.calls.items():
            gauge.add_metric([group, computation], calls[number])
        yield gauge


def families(group: str, overview: Overview | None, state_bytes: Mapping[str, int], whole: Whole | None = NO_WHOLE) -> Iterator[Metric]:
    """All metrics of a group. `overview` None: the group could not be read, and only that is exported. `state_bytes`: sizes as last
    measured. `whole`: None for a worker."""
    up = GaugeMetricFamily(UP, "1 if the group could be read from Redis. If 0, its other metrics are absent.", labels=["group"])
    up.add_metric([group], 0.0 if overview is None else 1.0)
    yield up
    if whole is not None:
        yield from of_group(group, whole if overview is not None else NO_WHOLE)
    partitions = () if overview is None else [one for one in overview.partitions if not one.status.away]  # what is not known has no value
    labelled = [((group, partition.partition), partition) for partition in partitions]
    weighed = _Measured("state_bytes", STATE_BYTES_HELP, lambda one: state_bytes.get(one.partition))
    for kind, measured in [*((CounterMetricFamily, one) for one in COUNTERS), *((GaugeMetricFamily, one) for one in (*GAUGES, weighed))]:
        family = kind(PREFIX + measured.name, measured.help, labels=LABELS)
        for labels, partition in labelled:
            value = measured.of(partition)
            if value is not None:
                family.add_metric(labels, float(value))
        yield family
    for histogram in HISTOGRAMS:
        spread = HistogramMetricFamily(PREFIX + histogram.name, histogram.help, labels=LABELS)
        edges = [*map(floatToGoString, histogram.bounds), "+Inf"]
        for labels, partition in labelled:
            found = histogram.of(partition)
            spread.add_metric(labels, list(zip(edges, accumulate(found.counts), strict=True)), found.total)
        yield spread
