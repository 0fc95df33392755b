"""The tests' application on an engine that is broken on purpose, or that kills itself at a chosen step.

A worker of this module reads three variables. With `KEEP_STATES` it keeps its states when it loses a lease.
`BROKEN_ENGINE` names one of `BREAKS`: that rule is removed from the commit script that this process sends.
With `DIE_AT=step:before:3` SIGKILL ends the process before the third call of the method `step` of the loop, or of
the batch reader (`after`: when that call has returned). `step:before:3:resizing`: the third one during a resize.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from functools import wraps
from hashlib import sha1
from itertools import count
from typing import Any

from celery_partitions.model.topology import Topology
from celery_partitions.store.resize_apart import Removal
from celery_partitions.store.scripts import script
from celery_partitions.worker import courier
from celery_partitions.worker.batch_reader import BatchReader
from celery_partitions.worker.courier import Courier
from celery_partitions.worker.holdings import Holdings
from celery_partitions.worker.loop import PartitionLoop
from celery_partitions.worker.loop_commits import LoopCommits
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.resizing import Resizing
from celery_partitions.worker.state_cache import StateCache
from tests.fundamentals.application import app

__all__ = ["BREAKS", "app"]

#: Name → texts in `commit.lua` and their replacements. Each text must occur there exactly once.
BREAKS: Mapping[str, Mapping[str, str]] = {
    "no fence": {"if meta[3] ~= token then": "if false then"},
    "trims one too many": {"redis.call('LTRIM', source, 0, -taken - 1)": "redis.call('LTRIM', source, 0, -taken - 2)"},
    "commits again on a retry": {
        # Neither the commit number nor the head of the queue shows that this commit was already written.
        "if commit_number ~= '' and at ~= commit_number then": "if false then",
        "or redis.sha1hex(oldest) ~= ARGV[5] or redis.sha1hex(youngest) ~= ARGV[6]": "",
    },
    "forgets the states": {
        "redis.call(unpack(ARGV, i + 1, i + words))": "if ARGV[i + 1] ~= 'HSET' then "
        "redis.call(unpack(ARGV, i + 1, i + words)) end"
    },
    # Each of these breaks happens once per partition.
    "leaves one that was applied": {
        "redis.call('LTRIM', source, 0, -taken - 1)": "redis.call('LTRIM', source, 0, "
        "redis.call('HSETNX', KEYS[2], 'broken', 1) == 1 and -taken or -taken - 1)"
    },
    "puts one behind all others": {
        "redis.call('LTRIM', source, 0, -taken - 1)": "redis.call('LTRIM', source, 0, -taken - 1) "
        "if redis.call('HSETNX', KEYS[2], 'broken', 1) == 1 then redis.call('LMOVE', source, source, 'RIGHT', 'LEFT') end"
    },
    "exchanges the states of two keys": {
        "redis.call(unpack(ARGV, i + 1, i + words))": "if words >= 6 and string.find(ARGV[i + 2], ':state:', 1, true) then "
        "ARGV[i + 3], ARGV[i + 5] = ARGV[i + 5], ARGV[i + 3] end redis.call(unpack(ARGV, i + 1, i + words))"
    },
}

_RUN, _ONCE = "redis.call(unpack(ARGV, i + 1, i + words))", "redis.call('HSETNX', KEYS[2], 'broken', 1) == 1"
#: The same for the outputs of a pipeline. Each break happens once per partition.
BREAKS_OF_OUTPUTS: Mapping[str, Mapping[str, str]] = {
    "loses an output": {_RUN: f"if ARGV[i + 1] ~= 'XADD' or not ({_ONCE}) then {_RUN} end"},
    "puts an output out twice": {_RUN: f"{_RUN} if ARGV[i + 1] == 'XADD' and {_ONCE} then {_RUN} end"},
    "puts outputs out the wrong way round": {
        _RUN: "if ARGV[i + 2] == 'played in a list' and words >= 7 then for j = 3, words / 2 do "
        "ARGV[i + j], ARGV[i + words + 3 - j] = ARGV[i + words + 3 - j], ARGV[i + j] end end " + _RUN
    },
    "loses what goes to other partitions": {
        _RUN: f"if ARGV[i + 1] ~= 'LPUSH' or KEYS[1] == ARGV[i + 2] or not string.find(ARGV[i + 2], '^partition%.%d') or not ({_ONCE}) "
        f"then {_RUN} end"
    },
}


def break_engine(name: str) -> None:
    commit = script("commit")
    text = commit.text.decode()
    for sound, broken in {**BREAKS, **BREAKS_OF_OUTPUTS}[name].items():
        if text.count(sound) != 1:
            raise AssertionError(f"commit.lua has changed, and can't be broken as {name!r}: {sound}")
        text = text.replace(sound, broken)
    commit.text = text.encode()
    commit.digest = sha1(commit.text).hexdigest()


def die_at(method: str, moment: str, times: int, when: str = "") -> None:
    owners = (PartitionLoop, LoopCommits, Holdings, BatchReader, Resizing, Courier, Removal)
    owner: Any = next(one for one in owners if hasattr(one, method))
    resizes: list[Resizing] = []
    follow = Resizing.follow

    def note(self: Resizing, topology: Topology) -> None:
        resizes[:] = [self]
        follow(self, topology)

    Resizing.follow = note  # type: ignore[method-assign]
    sound = getattr(owner, method)
    calls = count(1)

    @wraps(sound)
    def deadly(*args: Any, **kwargs: Any) -> Any:
        is_time = not when or any(one.topology.former is not None for one in resizes)
        last = is_time and next(calls) == times
        if last and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = sound(*args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(owner, method, deadly)


def keep_states_over_leases() -> None:
    """A worker that loses a partition keeps its states in memory, and uses them when it owns the partition again."""
    kept: dict[str, StateCache] = {}
    close_partition, make_owned = Holdings.close, OwnedPartition.__init__

    def close(self: Holdings, owned: OwnedPartition) -> None:
        kept[owned.partition] = owned.cache
        close_partition(self, owned)

    def make(self: OwnedPartition, *args: Any, **kwargs: Any) -> None:
        make_owned(self, *args, **kwargs)
        self.cache = kept.pop(self.partition, self.cache)

    Holdings.close = close  # type: ignore[method-assign]
    OwnedPartition.__init__ = make  # type: ignore[method-assign]
    # The peek of a new lease would also drop what is in memory.
    OwnedPartition.is_where_it_was = lambda self, reply: True  # type: ignore[method-assign]


def ignore_replicas(what: str) -> None:
    """What goes to another server is sent before a replica has it, or removed from the outbox before a replica of its target has it."""
    if what == "source":
        Courier.lasts = lambda self, outbox: True  # type: ignore[method-assign]
    else:
        courier.keep = lambda client, names, outbox, replicas: outbox.keep_all()  # type: ignore[assignment]


if os.environ.get("IGNORE_REPLICAS_OF"):
    ignore_replicas(os.environ["IGNORE_REPLICAS_OF"])
if os.environ.get("KEEP_STATES"):
    keep_states_over_leases()
if _name := os.environ.get("BROKEN_ENGINE"):
    break_engine(_name)
if _place := os.environ.get("DIE_AT"):
    _method, _moment, _times, *_when = _place.split(":")
    die_at(_method, _moment, int(_times), *_when)
