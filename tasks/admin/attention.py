"""What needs an operator, worst first: each with why, since when, and the one thing to do. Rules are values; each is a pure function of facts.

`attention_facts.py` reads the facts. `partitions attention`, `top`, the first page of the dashboard, its API and the metric
`celery_partitions_attention` all show what `look` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlencode

import msgspec

from celery_partitions.admin.attention_facts import Facts, Pace
from celery_partitions.admin.numbers import counted, number, span
from celery_partitions.admin.overview import PartitionOverview
from celery_partitions.admin.resize import SLOW_RESIZE_SECONDS
from celery_partitions.admin.workers import older_code
from celery_partitions.model.escaping import escape

#: A partition with messages is stalled if nothing was done for this long, and for longer than three of its usual batches.
STALLED_SECONDS = 30.0
#: A backlog that would take longer than this is reported; and one that grows by more than this share in five minutes.
DRAIN_SECONDS = 600.0
GROWTH = 0.1
#: A smaller backlog is not reported as growing.
MIN_BACKLOG = 100
TAKEOVER_SECONDS = 600.0
NEW_SECONDS = 86_400.0
#: A call in flight is reported after this time.
LONG_CALL_SECONDS = 600.0
#: A rolling deploy may take this long before two versions are reported.
DEPLOY_SECONDS = 600.0
#: A sink is reported if nothing left its queue for this long.
SINK_SECONDS = 60.0
#: Leases are renewed every third of their length. With less than this share left, two renewals have failed.
LEASE_SHARE = 0.35
#: Subjects that are named; the rest is counted.
MAX_NAMED = 5


class Attention(msgspec.Struct, frozen=True, omit_defaults=False, gc=False):
    """One thing that needs an operator."""

    rule: str
    severity: Literal["critical", "warning"]
    #: What is wrong, in one line.
    what: str
    why: str
    #: Seconds since the epoch; None if it is not known.
    since: float | None
    #: The one thing to do.
    action: str
    #: The dashboard's page about it, below Flower's root.
    page: str
    #: How many partitions, keys or workers are concerned.
    count: int = 1


class Rule(NamedTuple):
    """One kind of trouble. `find` is pure."""

    name: str
    #: What the rule reports; its docs and the alert's text.
    help: str
    find: Callable[[Facts], Iterable[Attention]]


def look(facts: Facts) -> list[Attention]:
    """Everything that needs an operator, worst first: what is critical, then warnings, each in the order of the rules."""
    return sorted((one for rule in RULES for one in rule.find(facts)), key=lambda one: one.severity != "critical")


def words(facts: Facts) -> dict[str, str]:
    """The partitions that are stalled or fall behind, with that word."""
    found = {}
    for one, pace in _active(facts):
        if is_stalled(one, pace, facts.at):
            found[one.partition] = "stalled"
        elif is_falling_behind(one, pace):
            found[one.partition] = "falling behind"
    return found


def counts(found: Iterable[Attention]) -> dict[str, int]:
    """How many partitions, keys or workers each rule concerns; 0 for a rule with nothing."""
    sums = {rule.name: 0 for rule in RULES}
    for one in found:
        sums[one.rule] = sums.get(one.rule, 0) + one.count
    return sums


def _no_owner(facts: Facts) -> Iterator[Attention]:
    rows = [one for one in facts.overview.partitions if one.status.owner is None]
    if not rows:
        return
    waiting = sum(one.present for one in rows)
    since = min((facts.last_points[one.partition] for one in rows if one.partition in facts.last_points), default=None)
    none = not facts.workers
    yield Attention(
        "no-owner",
        "critical",
        "no worker is running" if none else f"{counted(len(rows), 'partition')} without an owner: {_names(rows)}",
        f"{counted(waiting, 'message')} wait, and nothing processes them" if waiting else "nothing would process a message",
        since,
        "Start workers" if none else "Start another worker, or end a drain (partitions undrain)",
        _partition_page(rows, "unowned"),
        len(rows),
    )


def _stalled(facts: Facts) -> Iterator[Attention]:
    rows = [(one, pace) for one, pace in _active(facts) if is_stalled(one, pace, facts.at)]
    if not rows:
        return
    since = min(pace.idle_since for _, pace in rows if pace.idle_since is not None)
    waiting = sum(one.status.length for one, _ in rows)
    stalled = [one for one, _ in rows]
    yield Attention(
        "stalled",
        "critical",
        f"{counted(len(rows), 'partition')} stalled: {_names(stalled)}",
        f"{counted(waiting, 'message')} wait, and none was done for {span(facts.at - since)}",
        since,
        f"See what {stalled[0].status.owner} does: its log, its last commits, its oldest message. A call without a time limit may hang",
        _partition_page(stalled, "stalled"),
        len(rows),
    )


def is_stalled(one: PartitionOverview, pace: Pace, now: float) -> bool:
    """Whether messages wait and nothing was done for longer than usual."""
    if not one.status.length or pace.idle_since is None:
        return False
    return now - pace.idle_since >= max(STALLED_SECONDS, 3 * _usual_batch_seconds(one))


def _falling_behind(facts: Facts) -> Iterator[Attention]:
    rows = [(one, pace) for one, pace in _active(facts) if is_falling_behind(one, pace) and not is_stalled(one, pace, facts.at)]
    if not rows:
        return
    behind = sorted(rows, key=lambda row: -row[0].status.length)
    waiting = sum(one.status.length for one, _ in rows)
    came, done = sum(pace.in_per_second for _, pace in rows), sum(pace.done_per_second for _, pace in rows)
    yield Attention(
        "falling-behind",
        "warning",
        f"{counted(len(rows), 'partition')} falling behind: {_names([one for one, _ in behind])}",
        f"{counted(waiting, 'message')} wait; {number(came)}/s come, {number(done)}/s are done: {drained(waiting, came, done)}",
        min((pace.behind_since for _, pace in rows if pace.behind_since is not None), default=None),
        "Start more workers, up to one per partition; or find the slow computation",
        _partition_page([one for one, _ in behind], "falling behind"),
        len(rows),
    )


def is_falling_behind(one: PartitionOverview, pace: Pace) -> bool:
    """Whether the backlog grows, or takes long to drain."""
    waiting = one.status.length
    if waiting < MIN_BACKLOG or pace.seconds <= 0:
        return False
    if pace.done_per_second > pace.in_per_second:
        return waiting / (pace.done_per_second - pace.in_per_second) > DRAIN_SECONDS
    return waiting - pace.waiting_before > GROWTH * max(pace.waiting_before, MIN_BACKLOG)


def drained(waiting: float, came: float, done: float) -> str:
    """When a backlog is gone at these rates."""
    return f"drained in {span(waiting / (done - came))} at this rate" if done > came else "never drained at this rate"


def _takeovers(facts: Facts) -> Iterator[Attention]:
    rows = [(one, [at for at in one.takeovers if facts.at - at <= TAKEOVER_SECONDS]) for one in facts.overview.partitions]
    rows = [(one, times) for one, times in rows if times]
    if not rows:
        return
    many = sum(len(times) for _, times in rows)
    changes = max(len(times) for _, times in rows)
    yield Attention(
        "takeovers",
        "critical" if changes >= 3 else "warning",
        f"{counted(many, 'takeover')} in ten minutes: {_names([one for one, _ in rows])}",
        "a worker died or lost its lease, and another one took its partitions"
        + (f"; one partition changed hands {changes} times: a message may kill its worker" if changes >= 3 else ""),
        min(min(times) for _, times in rows),
        "See why the worker ended: its log, the kernel's log (out of memory), the deploy",
        "partitions/workers",
        many,
    )


_PARKED_ACTIONS = {
    "hold": "Correct the cause, then retry them; or skip their failed messages",
    "retry": "Nothing, if the cause is temporary: they are retried by themselves",
    "unknown-task": "Deploy workers that have the task",
    "unreadable-state": "Deploy workers that can read the state, or add the signing key",
    "running": "See whether the call hangs; give the computation a time limit",
}
_PARKED_WHYS = {
    "hold": "no retry is left, and their messages wait for you",
    "retry": "their message failed and will be retried",
    "unknown-task": "no worker knows their task",
    "unreadable-state": "no worker can read their state",
    "running": "their call is in flight",
}


def _parked(facts: Facts) -> Iterator[Attention]:
    for cause in sorted(facts.parked, key=lambda one: (one.why == "retry", -one.waiting)):
        if cause.why not in _PARKED_WHYS or (cause.why == "running" and facts.at - cause.since < LONG_CALL_SECONDS):
            continue
        error = f": {_line(cause.error)}" if cause.error else ""
        many = "more than " if facts.parked_cut else ""
        yield Attention(
            "parked",
            "critical" if cause.why == "hold" else "warning",
            f"{many}{counted(cause.count, 'parked key')} of {_line(cause.task or 'unknown tasks')}{error}",
            f"{_PARKED_WHYS[cause.why]}; {counted(cause.waiting, 'message')} wait, for example of {_line(cause.example)}",
            cause.since,
            _PARKED_ACTIONS[cause.why],
            "partitions/parked?" + urlencode({"why": cause.why, "task": cause.task or ""}),
            cause.count,
        )


def _dead_letters(facts: Facts) -> Iterator[Attention]:
    for kind in facts.dead_letter_kinds:
        if facts.at - kind.oldest_died_at > NEW_SECONDS or kind.in_place == kind.count:
            continue  # those in place are known as parked keys
        yield Attention(
            "dead-letters",
            "warning",
            f"a new kind of dead letter: {_line(kind.error or kind.reason)}",
            f"{counted(kind.count, 'message')} of {_line(kind.task or 'no known task')}, the last {span(facts.at - kind.newest_died_at)} ago",
            kind.oldest_died_at,
            "Read the traceback; correct the cause, then retry one, and the rest if it succeeds",
            "partitions/dead-letters?" + urlencode({"fingerprint": kind.fingerprint}),
            kind.count,
        )


def _paused(facts: Facts) -> Iterator[Attention]:
    by: dict[str, list[PartitionOverview]] = {}
    for one in facts.overview.partitions:
        if one.status.paused:
            by.setdefault(facts.pauses[one.partition].who if one.partition in facts.pauses else "", []).append(one)
    for who, rows in by.items():
        since = min((facts.pauses[one.partition].at for one in rows if one.partition in facts.pauses), default=None)
        name = _line(who) if who else "a failure policy"
        yield Attention(
            "paused",
            "warning",
            f"{counted(len(rows), 'partition')} paused by {name}: {_names(rows)}",
            f"{counted(sum(one.present for one in rows), 'message')} wait",
            since,
            "Resume when the cause is gone (partitions resume)",
            _partition_page(rows, "paused"),
            len(rows),
        )


def _sinks(facts: Facts) -> Iterator[Attention]:
    for sink in facts.sinks:
        idle = None if sink.idle_since is None else facts.at - sink.idle_since
        if not sink.waiting or (sink.owner is not None and (idle is None or idle < SINK_SECONDS)):
            continue
        command = f"celery -A APP partitions sink {sink.name}"
        yield Attention(
            "sink",
            "critical",
            f"the sink {_line(sink.name)} does not move",
            f"{counted(sink.waiting, 'output')} wait, and {'no process delivers them' if sink.owner is None else 'none was delivered'}",
            sink.idle_since,
            f"Start {command}" if sink.owner is None else f"See the log of {sink.owner}; is the other end reachable?",
            "partitions/ends",
        )


def _sources(facts: Facts) -> Iterator[Attention]:
    for source in facts.sources:
        yield Attention(
            "source",
            "warning",
            f"the source {_line(source.name)} does not move",
            "it has not ended, and no process reads it",
            source.until,
            f"Start celery -A APP partitions source {source.name}",
            "partitions/ends",
        )


def _versions(facts: Facts) -> Iterator[Attention]:
    older = older_code(facts.workers)
    if older is None or facts.at - older.newest_since < DEPLOY_SECONDS:
        return
    yield Attention(
        "versions",
        "warning",
        f"{counted(len(older.nodes), 'worker')} with other code than the newest: {', '.join(older.nodes[:MAX_NAMED])}",
        "a key's messages may be processed by either version",
        older.newest_since,
        "Restart them, or end the deploy",
        "partitions/versions",
        len(older.nodes),
    )


def _leases(facts: Facts) -> Iterator[Attention]:
    late = [one for one in facts.workers if 0 <= one.lease_seconds < LEASE_SHARE * facts.lease_seconds]
    if not late:
        return
    soon = min(one.lease_seconds for one in late)
    yield Attention(
        "leases",
        "warning",
        f"{counted(len(late), 'worker')} about to lose leases: {', '.join(one.node for one in late[:MAX_NAMED])}",
        f"the last renewals failed; the first lease ends in {span(soon)}",
        None,
        "Check the machine's load, its clock and its connection to Redis",
        "partitions/workers",
        len(late),
    )


def _server(facts: Facts) -> Iterator[Attention]:
    for check in facts.server:
        yield Attention(
            "server", "critical" if check.verdict == "bad" else "warning", f"Redis, {check.subject}", check.text, None,
            "Run celery -A APP partitions doctor", "partitions",
        )  # fmt: skip


def _resize(facts: Facts) -> Iterator[Attention]:
    one = facts.resize
    if one is None or one.state != "moving" or one.seconds is None or one.seconds < SLOW_RESIZE_SECONDS:
        return
    yield Attention(
        "resize",
        "warning",
        f"a resize from {one.former} to {one.partitions} partitions: the keys of {counted(len(one.not_moved), 'partition')} do not move",
        "messages of keys that come from there wait",
        facts.at - one.seconds,
        "See whether a worker holds them (partitions workers), and its log; or undo it (partitions resize --abort)",
        f"partition/{one.not_moved[0]}" if len(one.not_moved) == 1 else "partitions",
        len(one.not_moved),
    )


#: All rules, worst first. The list of attention has this order.
RULES: Sequence[Rule] = (
    Rule("no-owner", "A partition has no owner: its messages wait.", _no_owner),
    Rule("stalled", "Messages wait, and none was done for longer than a usual batch.", _stalled),
    Rule("sink", "A sink has outputs that wait, and delivers none.", _sinks),
    Rule("source", "A source that has not ended has no process.", _sources),
    Rule("server", "Redis is nearly full, does not write to disk, or has another warning of doctor.", _server),
    Rule("leases", "A worker's renewals fail, and its leases are about to end.", _leases),
    Rule("resize", "A resize began more than a minute ago, and keys have not moved.", _resize),
    Rule("takeovers", "Partitions were taken from dead workers in the last ten minutes.", _takeovers),
    Rule("falling-behind", "A backlog grows, or takes longer than ten minutes to drain.", _falling_behind),
    Rule("parked", "Keys are parked after failures, or a call runs for more than ten minutes.", _parked),
    Rule("dead-letters", "There is a kind of dead letter that did not exist a day ago.", _dead_letters),
    Rule("paused", "A partition is paused.", _paused),
    Rule("versions", "Workers run different code for more than ten minutes.", _versions),
)


def _active(facts: Facts) -> Iterator[tuple[PartitionOverview, Pace]]:
    """The partitions that should be doing something, with their recent pace."""
    for one in facts.overview.partitions:
        if one.status.owner is not None and not one.status.paused and one.partition in facts.paces:
            yield one, facts.paces[one.partition]


def _usual_batch_seconds(one: PartitionOverview) -> float:
    batches = one.measurements.batch.count
    return one.measurements.computation.total / batches if batches else 0.0


def _names(rows: Sequence[PartitionOverview]) -> str:
    more = f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else ""
    return ", ".join(one.status.queue for one in rows[:MAX_NAMED]) + more


def _partition_page(rows: Sequence[PartitionOverview], state: str) -> str:
    """The page of the only partition, or the list of those in this state."""
    return f"partition/{rows[0].partition}" if len(rows) == 1 else "partitions#" + urlencode({"state": state})


def _line(text: str) -> str:
    """Outside text in one short line, with control characters escaped."""
    shown = escape(text)
    return shown if len(shown) <= 80 else shown[:79] + "…"
