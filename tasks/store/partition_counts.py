"""Counts what partitions hold: messages, keys, dead letters and counters of their `meta`. In one round trip for any number of partitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoScriptError

from celery_partitions.model.messages import MAX_SECONDS
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import Names, queue_lists
from celery_partitions.store.scripts import script
from celery_partitions.store.servers import what_there_is

#: Partitions that one call of the script counts: about 0.5 ms in which the server does nothing else.
AT_ONCE = 32


class PartitionCounts(NamedTuple):
    """What a partition holds. What has the wrong type counts as 0."""

    #: Messages in the queue, the inbox and the lists of messages with a priority.
    waiting: int
    #: Messages that wait for their `eta`, and timers.
    delayed: int
    #: Keys in `parked`.
    parked: int
    dead: int
    #: Keys that have a state, over all computations.
    keys: int
    #: When its oldest message was sent: seconds since the epoch, by the sender's clock. None if there is no message, or it does not say.
    sent: float | None
    #: The fields of `meta` that were asked for.
    meta: Sequence[bytes | None]


def read_counts(
    client: redis.Redis,
    names: Names,
    partitions: Sequence[str],
    computations: Sequence[str],
    fields: Sequence[str],
    also: Callable[[redis.client.Pipeline], None] = lambda _: None,
) -> tuple[list[PartitionCounts | None], list[Any]]:
    """The counts of each partition, and the answers to the commands that `also` adds, an error in place of an answer that failed. None in place of
    counts: the partition's server does not answer.

    A Redis user who may not run scripts reads with plain commands, which take Redis and this process several times as long, and gets no `sent`.
    """
    counting = script("count_partitions")

    def ask(add: Callable[[redis.client.Pipeline], None]) -> tuple[list[Any], list[Any]]:
        with what_there_is(client) as pipe:
            also(pipe)
            others = len(pipe.command_stack)
            add(pipe)
            answers = pipe.execute(raise_on_error=False)
        return answers[others:], answers[:others]

    def by_script(pipe: redis.client.Pipeline) -> None:
        for keys in _keys_of_calls(names, tuple(partitions), tuple(computations)):
            pipe.execute_command("EVALSHA", counting.digest, len(keys), *keys, len(computations), *fields)

    def by_commands(pipe: redis.client.Pipeline) -> None:
        for partition in partitions:
            _request(pipe, _keys(names, partition, computations), fields)

    answers, others = ask(by_script)
    if any(isinstance(answer, NoScriptError) for answer in answers):
        try:
            client.script_load(counting.text)
        except redis.ResponseError:
            pass  # this user may not
        else:
            answers, others = ask(by_script)
    if any(isinstance(answer, redis.ResponseError) and not isinstance(answer, SERVER_ERRORS) for answer in answers):
        answers, others = ask(by_commands)
        rows = iter(answers)
        width = _FIRST_STATES + len(computations)
        return [_counted(list(islice(rows, width))) for _ in partitions], others
    found: list[PartitionCounts | None] = []
    for some, answer in zip(_in_calls(names, partitions), answers, strict=True):
        if isinstance(answer, Exception):
            found += [None] * len(some)
        else:
            found += [PartitionCounts(row[0], row[1], row[2], row[3], row[4], _seconds(row[5]), row[6:]) for row in answer]
    return found, others


#: Where the hashes of states begin among a partition's keys, and how many of the keys before are lists of messages.
_FIRST_STATES, _LISTS = 9, 5


def _keys(names: Names, partition: str, computations: Sequence[str]) -> list[str]:
    """As the script wants them."""
    of_partition = [names.inbox, names.delayed, names.parked, names.dead, names.meta]
    return [
        *queue_lists(names, partition),
        *(name(partition) for name in of_partition),
        *(names.states(partition, computation) for computation in computations),
    ]


def _in_calls(names: Names, partitions: Sequence[str]) -> Iterator[Sequence[str]]:
    """The partitions of each call of the script: on several servers, one, because a script may touch one slot."""
    at_once = 1 if names.is_spread else AT_ONCE
    return (partitions[start : start + at_once] for start in range(0, len(partitions), at_once))


@lru_cache(maxsize=2)
def _keys_of_calls(names: Names, partitions: tuple[str, ...], computations: tuple[str, ...]) -> list[list[bytes]]:
    """Thousands of words, which stay the same from read to read."""
    return [
        [key.encode() for partition in some for key in _keys(names, partition, computations)]
        for some in _in_calls(names, partitions)
    ]


def _request(pipe: redis.client.Pipeline, keys: Sequence[str], fields: Sequence[str]) -> None:
    *lists, delayed, parked, dead, meta = keys[:_FIRST_STATES]
    for name in lists:
        pipe.llen(name)
    pipe.zcard(delayed)
    pipe.hlen(parked)
    pipe.hlen(dead)
    pipe.hmget(meta, fields)
    for states in keys[_FIRST_STATES:]:
        pipe.hlen(states)


def _counted(row: list[Any]) -> PartitionCounts | None:
    """From the answers to `_request`."""
    if isinstance(row[0], SERVER_ERRORS):
        return None
    lists, (delayed, parked, dead, meta), states = row[:_LISTS], row[_LISTS:_FIRST_STATES], row[_FIRST_STATES:]
    waiting, keys = sum(map(_count, lists)), sum(map(_count, states))
    return PartitionCounts(waiting, _count(delayed), _count(parked), _count(dead), keys, None, meta if isinstance(meta, list) else ())


def _count(answer: Any) -> int:
    """A count; 0 if the key has the wrong type, for which Redis answers with an error."""
    return answer if isinstance(answer, int) else 0


def _seconds(text: bytes) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and 0 <= found <= MAX_SECONDS else None
