"""When a batch computation is called, as its declaration says: `flush_every=` and `flush_interval=`."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_partitions.model.annotations import first_annotation
from celery_partitions.model.errors import DeclarationError

if TYPE_CHECKING:
    from celery_partitions.model.computation import Computation

#: All messages of a call are in one commit, and in memory.
MAX_FLUSH_EVERY = 10_000
DEFAULT_FLUSH_SECONDS = 1.0
#: More messages of a mailbox are not read at once, if two calls need no more.
MANY_READ = 2000


@dataclass(frozen=True, slots=True)
class Flush:
    """A key's messages are given together when there are `every`, or `seconds` after the first."""

    every: int
    seconds: float


def flush_of(
    name: str, function: Callable[..., Any], parameter: str, flush_every: object, flush_interval: object, key: object, refused: Mapping[str, bool]
) -> Flush | None:
    """Check what a declaration says about batches. None: it is no batch computation. `refused`: options that a batch computation can't have, and
    whether they are used. Raises `DeclarationError` that says what to change."""
    if flush_every is None:
        if flush_interval is not None:
            raise DeclarationError(f"computation {name!r}: flush_interval= needs a flush_every=, the largest number of messages of one call")
        return None
    if isinstance(flush_every, bool) or not isinstance(flush_every, int) or not 1 <= flush_every <= MAX_FLUSH_EVERY:
        raise DeclarationError(f"computation {name!r}: flush_every must be an integer from 1 to {MAX_FLUSH_EVERY:,}, not {flush_every!r:.40}")
    seconds = flush_interval.total_seconds() if isinstance(flush_interval, timedelta) else flush_interval
    seconds = DEFAULT_FLUSH_SECONDS if seconds is None else seconds
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise DeclarationError(f"computation {name!r}: flush_interval must be a timedelta or a number of seconds, above zero, not {flush_interval!r:.40}")
    if key is None:
        raise DeclarationError(f"computation {name!r}: flush_every= needs a key=. A stage of a pipeline gets one message at a time; to collect some, use windows")
    for option, is_used in refused.items():
        if is_used:
            raise DeclarationError(f"computation {name!r}: {option} can't be combined with flush_every=, because a call has several messages. Remove one of them")
    annotation = first_annotation(function, parameter)
    if annotation is not list and typing.get_origin(annotation) is not list:
        raise DeclarationError(
            f"computation {name!r} has flush_every=, so {parameter} receives several messages: annotate it as a list of them, for example {parameter}: list[Order]"
        )
    return Flush(flush_every, float(seconds))


def element_of(annotation: Any) -> Any:
    """The type of the messages of a batch computation, from the annotation of its list."""
    return next(iter(typing.get_args(annotation)), Any)


def messages_to_read(computations: Mapping[str, Computation], task: str | None) -> int:
    """How many messages of a mailbox to read, so that some calls of a batch computation are complete. `task`: of the first message; None: not
    known. 0: it is for no batch computation."""
    likely = computations.values() if task is None else [computations[task]] if task in computations else []
    every = max((one.flush.every for one in likely if one.flush is not None), default=0)
    return max(2 * every, min(5 * every, MANY_READ))
