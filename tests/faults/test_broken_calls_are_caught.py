"""The checks of calls in flight catch engines that are broken on purpose, and pass on the real one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import broken_calls
from tests.fundamentals.live import LiveGroup
from tests.support.applications.waiting import Visit, begun, overlaps, recorded, visit
from tests.support.wait import wait_until

KEYS, EACH = 6, 4


def two_commits(lines: list[str]) -> bool:
    """Whether the worker sent a commit of a partition before it had read the answer to the last one."""
    return any(line.startswith("twice") for line in lines)


def flaws(live: LiveGroup) -> set[str]:
    """Send to a worker, delete the state of a running key, and check the records and the states."""
    live.send(visit, [Visit(f"k{number}", number) for number in range(KEYS)])
    live.wait_drained()
    live.send(visit, [Visit(f"k{number % KEYS}", number, 0.4) for number in range(KEYS, KEYS * EACH)])
    wait_until(lambda: sum(row.running for row in live.group.status()) >= KEYS)
    live.group.states.forget(visit.computation, "k1")
    live.wait_drained()
    found = set()
    lines = recorded(live.client)
    if two_commits(lines):
        found.add("commits")
    if overlaps(lines):
        found.add("overlap")
    states = live.numbers(visit)
    wanted = {f"k{key}": [number for number in range(KEYS * EACH) if number % KEYS == key] for key in range(KEYS)}
    if any(states.get(key) != numbers for key, numbers in wanted.items() if key != "k1"):
        found.add("states")
    calls = begun(lines)
    if states["k1"] == wanted["k1"]:
        found.add("edit")
    if any(len(numbers) != EACH for key, numbers in calls.items() if key != "k1"):
        found.add("calls")
    return found


@pytest.fixture
def broken(redis_url: str, make_live: Callable[..., LiveGroup]) -> Callable[[str], LiveGroup]:
    def start(name: str) -> LiveGroup:
        live = make_live(redis_url, PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=2000)
        live.start_worker(module=broken_calls.__name__, BROKEN_CALLS=name).wait_ready()
        return live

    return start


def test_the_real_engine_passes(broken: Callable[[str], LiveGroup]) -> None:
    assert flaws(broken("")) == set()


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("message 2 starts before message 1 ends", "overlap"),
        ("the move to the mailbox forgets a message", "states"),
        ("a completion without its state check", "edit"),
    ],
)
def test_a_broken_engine_is_caught(broken: Callable[[str], LiveGroup], name: str, flaw: str) -> None:
    assert flaw in flaws(broken(name))


def test_two_commits_under_way_are_caught(broken: Callable[[str], LiveGroup]) -> None:
    live = broken(broken_calls.NO_ANSWERS)
    for round in (1, 2):
        live.send(visit, [Visit(f"k{number}", number) for number in range(KEYS)])
        wait_until(lambda: live.processed() == round * KEYS or two_commits(recorded(live.client)))  # noqa: B023 - called in the same round
    assert two_commits(recorded(live.client))
