"""Rate limits: one that all keys share, and one for each key. Their calls are counted from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from celery_partitions import Context, state_computation
from tests.chaos.acts import GIVE_UP, Act, History, act_key, do
from tests.chaos.recorder import Call, recorded

#: Calls per second and burst, of all keys together.
SHARED_RATE, SHARED_BURST = 40, 2
#: Calls per second of each key. The burst is 1.
KEY_RATE = 10
#: Windows of these lengths are counted.
SPANS_SECONDS = (0.5, 2.0, 10.0, 60.0)
#: How much later than its token a call may start: longer than a worker or the server is suspended, or an answer is silent.
LATE_SECONDS = 4.0


@state_computation(
    name="play shared", state=History, key=act_key, on_error=GIVE_UP, rate_limit=f"{SHARED_RATE}/s", burst=SHARED_BURST, rate_limit_key=lambda act: "all"
)
async def play_shared(act: Act, state: History, context: Context) -> None:
    with recorded(play_shared.name, act, context):
        await asyncio.sleep(act.seconds)
        do(act, state, context)


@state_computation(name="play slowly", state=History, key=act_key, on_error=GIVE_UP, rate_limit=f"{KEY_RATE}/s")
def play_slowly(act: Act, state: History, context: Context) -> None:
    with recorded(play_slowly.name, act, context):
        do(act, state, context)


def exceeded(calls: Iterable[Call], late_seconds: float = LATE_SECONDS) -> Iterator[str]:
    """Describe each bucket of which more calls started within some time than its limit allows."""
    starts: dict[str, list[float]] = {}
    for call in calls:
        if call.of == play_shared.name:
            starts.setdefault("all", []).append(call.began)
        elif call.of == play_slowly.name:
            starts.setdefault(call.key, []).append(call.began)
    for bucket, times in starts.items():
        rate, burst = (SHARED_RATE, SHARED_BURST) if bucket == "all" else (KEY_RATE, 1)
        for span in SPANS_SECONDS:
            count, allowed = most_within(sorted(times), span), burst + rate * (span + late_seconds)
            if count > allowed:
                yield f"{count} calls of {bucket!r} started within {span:g} s, and its limit allows {allowed:.0f}"


def used(calls: Iterable[Call]) -> float:
    """The share of the common limit that was used, from the first call to the last. Messages wait for it all the time."""
    times = sorted(call.began for call in calls if call.of == play_shared.name)
    return (len(times) - SHARED_BURST) / ((times[-1] - times[0]) * SHARED_RATE) if len(times) > SHARED_BURST else 0.0


def most_within(times: list[float], span: float) -> int:
    """The most times within any window of this length."""
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - span:
            first += 1
        most = max(most, last - first + 1)
    return most
