"""Fairness between the keys of a partition: a key whose messages take much time must not hold up the others.

Only time counts. While calls are quick, a batch is processed in the order of its queue, whoever sends how much. If a batch would take long,
the messages of its hot keys move to their mailboxes (reason `ready`), and the partition takes turns between them and its queue. Pure.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from celery_partitions.model.computation import Computation
from celery_partitions.model.items import Item, Work

#: A batch is looked at after this time, and each time that this has doubled: a look takes a tenth of a millisecond.
LOOK_SECONDS = 0.005
#: What remains of a batch is long if it takes more than this. While a hot key waits for its turn, no turn of the queue takes longer.
LONG_SECONDS = 0.02
#: Calls are quick if they take less than this on average: about ten times what it costs to move a message.
QUICK_SECONDS = 0.0001
#: A key is hot with more than this share of the time that remains, if it is also clearly more than an equal share.
HOT_SHARE, MORE_THAN_EQUAL = 0.1, 1.5
#: The longest turn of a hot key. Its commit takes less than a tenth of this. A turn ends before if messages of other keys come, which is checked
#: this often: a check takes a tenth of a millisecond.
TURN_SECONDS, CHECK_SECONDS = 0.01, 0.001

#: A hot key's next turn is due this long before it is noted, because what a worker knows of the server's clock varies by some milliseconds.
EARLY_SECONDS = 0.01


def hot_keys(
    rest: Sequence[Item], done: Sequence[Work], began: Sequence[float], now: float, parked: Container[str]
) -> Mapping[str, Work]:
    """The hot keys of a batch, each with its first message. Empty, if the rest of the batch is not long, or every key in it is hot.

    `rest`: what was not taken yet; a computation that is new to the batch counts as quick. `done`, `began`: what was applied, and when each began. `parked`: keys that do not run from the queue.
    """
    if not done or now - began[0] < QUICK_SECONDS * len(done):
        return {}
    spent: dict[Computation, list[float]] = {}
    for work, start, end in zip(done, began, [*began[1:], now], strict=True):
        total = spent.setdefault(work.computation, [0.0, 0])
        total[0] += end - start
        total[1] += 1
    means = {computation: seconds / count for computation, (seconds, count) in spent.items()}
    wanted: dict[str, float] = {}
    first: dict[str, Work] = {}
    for item in rest:
        if isinstance(item, Work) and item.key not in parked:
            first.setdefault(item.key, item)
            wanted[item.key] = wanted.get(item.key, 0.0) + means.get(item.computation, 0.0)
    total_seconds = sum(wanted.values())
    if total_seconds <= LONG_SECONDS:
        return {}
    limit = total_seconds * max(HOT_SHARE, MORE_THAN_EQUAL / len(wanted))
    return {key: first[key] for key, seconds in wanted.items() if seconds > limit}


def turn_messages(taken: int, seconds: float, limit: int) -> int:
    """How many messages of a hot key's mailbox to read for its next turn, after this many took `seconds`."""
    return max(2, min(limit, round(taken * TURN_SECONDS / max(seconds, 1e-6)) + 1))
