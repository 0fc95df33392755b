"""Engines with scripts that are broken on purpose, which the simulation must catch.

Those of `tests.faults.engines`, and some that only show in a schedule with many steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from celery_partitions.store.scripts import script
from tests.faults import engines

#: The place where the commit script runs its commands.
_RUN = "redis.call(unpack(ARGV, i + 1, i + words))"

#: Name → texts in the scripts and their replacements.
BREAKS: Mapping[str, Mapping[str, str]] = {
    **engines.BREAKS,
    "swaps two messages on their way": {
        _RUN: f"if ARGV[i + 1] == 'LPUSH' and words >= 4 then ARGV[i + 3], ARGV[i + 4] = ARGV[i + 4], ARGV[i + 3] end {_RUN}"
    },
    "gives a key the state of another": {
        _RUN: f"if ARGV[i + 1] == 'HSET' and words >= 6 then ARGV[i + 4], ARGV[i + 6] = ARGV[i + 6], ARGV[i + 4] end {_RUN}"
    },
    "gives out a token twice": {"math.max(before + 1, time[1] * 1000000 + time[2])": "math.max(before, 1)"},
    "counts tokens, which a server that lost data gives again": {
        "math.max(before + 1, time[1] * 1000000 + time[2])": "before + 1"
    },
    "writes over an operator's change": {"if edit_version ~= '' and edits ~= edit_version then": "if false then"},
    "leaves a parked key's messages in their mailbox": {
        _RUN: f"if ARGV[i + 1] ~= 'LPUSH' or not string.find(ARGV[i + 2], ':mailbox:', 1, true) then {_RUN} end"
    },
    "loses what is delayed": {_RUN: f"if ARGV[i + 1] ~= 'ZADD' then {_RUN} end"},
    "keeps the shares of the dead": {
        "if alive[held[i + 1]] then owner[held[i]] = held[i + 1]": "if true then owner[held[i]] = held[i + 1]"
    },
}

#: The same for schedules with resizes.
RESIZE_BREAKS: Mapping[str, Mapping[str, str]] = {
    "a message does not wait for older ones": {"if all == 0 and ARGV[4] ~= '1' then may = most end": "may = most"},
    "messages that were in the queue before a resize do not wait": {"if ARGV[7] == '' then": "if false then"},
    "what was sent before an abort waits": {"for _, from in ipairs(older) do move": "for _, from in ipairs({}) do move"},
    "the holder keeps its token when a resize begins": {"'HINCRBY', KEYS[i], 'token', 1": "'HGET', KEYS[i], 'token'"},
}


def broken(name: str) -> dict[str, str]:
    """The argument `edits` of `run` for an engine that is broken in this way. The scripts must still contain the replaced texts."""
    texts = [script(one).text.decode() for one in ("balance", "claim", "commit", "admit", "begin_resize")]
    edits = {**BREAKS, **RESIZE_BREAKS}[name]
    for sound in edits:
        if sum(text.count(sound) for text in texts) != 1:
            raise AssertionError(f"the scripts have changed, and cannot be broken as {name!r}: {sound}")
    return dict(edits)
