"""Decides which messages of a batch are called outside the loop, and when their batch is committed. Pure.

The first message of a free key whose computation waits (`async def`, threads) starts at once. Later messages of that key follow in the same
run. What has not ended when the batch is committed moves to its key's mailbox, so that the head of the queue is always free.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass, field

from celery_partitions.model.computation import Computation
from celery_partitions.model.items import Apart, Item, PlainTask, UnknownTask, Work
from celery_partitions.model.own_lines import line_in

#: A batch is not committed before this time, unless all of its calls have ended. Short calls then never need a mailbox.
BATCH_SECONDS = 0.02
#: After that time it is committed once no call has ended for this long: the rest is slow.
PATIENCE_SECONDS = 0.005
#: The longest time that a batch waits for its calls, so that messages behind it do not wait for many calls that keep ending.
LONGEST_SECONDS = 0.2
#: How long ended calls wait for others to share their commit.
LINGER_SECONDS = 0.004
#: This many ended calls are committed at once.
MAX_SHARED = 1000
#: How many messages of a mailbox one run gets, but for batch computations. Its next messages are read after its commit.
MAX_OF_MAILBOX = 20


@dataclass(slots=True)
class Division:
    """The messages of a batch, divided by who calls them."""

    #: For the step: its own messages, and a placeholder for each other one.
    items: list[Item]
    #: Key → the messages to call outside the loop, in order.
    runs: dict[str, list[Work]] = field(default_factory=dict)
    #: Key → the messages that wait in its mailbox from the batch's commit on, in order.
    behind: dict[str, list[bytes]] = field(default_factory=dict)
    #: The computation that has no room for more calls. The batch ends before its message.
    full: Computation | None = None


def divide(
    items: Sequence[Item],
    *,
    waiting: Callable[[Computation], Computation | None],
    running: Container[str],
    parked: Container[str],
    own_lines: Collection[str],
    has_room: Callable[[Computation, Work], bool],
    one_message: bool = False,
) -> Division:
    """Divide a batch.

    `waiting`: the stage of a computation that runs outside the loop; None for plain ones. `running`: keys whose earlier messages are in
    flight; their messages go to their mailboxes. `parked`: keys that wait after a failure, and `own_lines`: of
    computations. The step knows how to treat their messages. `has_room`: called once for each new run, which then counts as started.
    `one_message`: a run gets only its first message (isolation).
    """
    division = Division([])
    out, runs, behind = division.items, division.runs, division.behind
    plain: set[str] = set()
    for item in items:
        if isinstance(item, UnknownTask) and (item.line in behind or item.line in running or item.line in runs):
            behind.setdefault(item.line, []).append(item.raw)
            out.append(Apart(item.raw))
            continue
        if not isinstance(item, Work):
            out.append(item)
            if isinstance(item, UnknownTask):
                plain.add(item.line)  # the step parks the key
            continue
        key, stage = item.key, waiting(item.computation)
        if key in behind:
            behind[key].append(item.raw)
        elif key in running:
            behind[key] = [item.raw]
        elif key in runs:
            first = runs[key][0].computation
            if stage is None or stage.flush is not None or one_message or stage.strict or first.strict or is_behind_line(own_lines, item):
                behind[key] = [item.raw]
            else:
                runs[key].append(item)
        elif stage is None or key in parked or stage.flush is not None:  # the step mails the messages of a batch computation
            plain.add(key)
            out.append(item)
            continue
        elif key in plain:
            behind[key] = [item.raw]
        elif is_behind_line(own_lines, item):
            out.append(item)
            continue
        elif has_room(stage, item):
            runs[key] = [item]
        else:
            division.full = stage
            break
        out.append(Apart(item.raw))
    return division


def is_behind_line(own_lines: Collection[str], item: Item, place: str | None = None) -> bool:
    """Whether a message must go to its computation's own line. `place`: the mailbox that it is in."""
    if not own_lines or not isinstance(item, Work):
        return False
    line = line_in(own_lines, item.key, item.computation.lines)
    return line is not None and line != place


def beginning(items: Sequence[Item], waiting: Callable[[Computation], Computation | None], size: int) -> list[Item]:
    """The first messages of a mailbox that one run may take. `waiting`: as for `divide`. `size`: how many of a batch computation, if not as
    declared."""
    first = items[0].computation if items and isinstance(items[0], Work) else None
    if first is not None and first.flush is not None and waiting(first) is not None:
        together = itertools.takewhile(lambda item: isinstance(item, Work) and item.computation is first, items)
        return list(itertools.islice(together, size or first.flush.every))
    kept: list[Item] = []
    for item in items[:MAX_OF_MAILBOX]:
        if isinstance(item, PlainTask):
            break
        if isinstance(item, Work):
            stage = waiting(item.computation)
            if stage is None or stage.flush is not None or (kept and stage.strict):
                break
            kept.append(item)
            if stage.strict:
                break
        else:
            kept.append(item)
    return kept


def is_for_one_computation(items: Sequence[Item]) -> bool:
    """Whether all of them are messages to one computation."""
    return all(isinstance(item, Work) for item in items) and len({id(item.computation) for item in items if isinstance(item, Work)}) == 1


def is_batch_due(*, running: int, age: float, since_last: float, room_wanted: bool) -> bool:
    """Whether a batch whose calls were started is committed now. `running`: how many of its calls have not ended. `age`: seconds since
    they were started; `since_last`: since the last one ended. `room_wanted`: fewer than half of `concurrency` run, and messages wait."""
    if running == 0 or age >= LONGEST_SECONDS:
        return True
    return age >= BATCH_SECONDS and (since_last >= PATIENCE_SECONDS or room_wanted)
