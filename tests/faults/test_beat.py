"""Two workers run a beat schedule and are killed in turns: each run happens exactly once. `beat_rounds` does it for ten minutes."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.beat_rounds import ENV, dues, play, wrong
from tests.fundamentals.live import LiveGroup
from tests.support.applications.scheduled import EVERY_MS, TICKS


def test_each_run_happens_once_while_workers_are_killed_in_turns(redis_url: str, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(redis_url, **ENV)
    play(live, range(3), runs_between=3)
    ticks = dues(live, TICKS)
    assert len(ticks) > 9
    assert wrong(ticks, EVERY_MS) == []
