"""The traffic and verdict of a chaos run, without faults: the verdict passes on the real engine and finds each break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import application, recorder
from tests.chaos.acts import TRIES
from tests.chaos.findings import look
from tests.chaos.stage import ENV
from tests.chaos.traffic import WAYS, Producer
from tests.chaos.verdict import Violation, judge
from tests.fundamentals.live import LiveGroup

#: Pushes before the worker starts: several batches of each partition.
PUSHES = 12


@pytest.fixture
def live(redis_url: str, tmp_path: Path) -> Iterator[LiveGroup]:
    with LiveGroup(redis_url, tmp_path, **{**ENV, "PARTITIONS": 2, "PARTITIONS_BATCH_MESSAGES": 40}) as live:
        yield live
    live.print_logs()


def verdict_on(live: LiveGroup, files: Path, **engine: str) -> list[Violation]:
    """What the verdict finds when a worker has processed everything that a producer sent."""
    producer = Producer(0, 1, live)
    producer.malformed.extend([3, 3])
    producer.raising.extend([2, 2, 2])
    for way in WAYS:
        producer.send_in(way)
    for _ in range(PUSHES):
        producer.send_some()
    live.start_worker(module=application.__name__, **{"CHAOS_NOTES": files / "notes", recorder.PATH: files / "records"}, **engine)
    live.wait_drained()
    return judge(producer.sent, look(live, files / "notes", files / "records"), tries=TRIES)


def test_nothing_is_found_on_the_real_engine(live: LiveGroup, tmp_path: Path) -> None:
    assert verdict_on(live, tmp_path) == []


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        pytest.param("trims one too many", "loss", id="a lost message"),
        pytest.param("leaves one that was applied", "duplicate", id="a duplicate"),
        pytest.param("puts one behind all others", "reorder", id="a swap"),
        pytest.param("exchanges the states of two keys", "foreign", id="a state of another key"),
        pytest.param("loses an output", "output loss", id="a missing output"),
        pytest.param("puts an output out twice", "output duplicate", id="an output twice"),
        pytest.param("puts outputs out the wrong way round", "output reorder", id="outputs the wrong way round"),
        pytest.param("loses what goes to other partitions", "loss", id="a missing hop"),
    ],
)
def test_each_break_is_found_and_named(live: LiveGroup, tmp_path: Path, broken: str, kind: str) -> None:
    found = verdict_on(live, tmp_path, BROKEN_ENGINE=broken)
    assert kind in [violation.kind for violation in found], found
