"""The schedule is a pure function of seed and seconds, and names only existing targets."""

from __future__ import annotations

import pytest

from tests.chaos.schedule import KINDS, LINES, MAX_WORKERS, PARTITIONS, PRODUCERS, WORKERS, Injection, make_schedule

SEEDS = range(20)
ENDS_A_WORKER = ("kill", "leave", "quit")
HARMS_THE_SERVER = ("kill server", "restart server", "pause server")


def test_the_same_seed_and_seconds_give_the_same_schedule() -> None:
    assert make_schedule(7, 60.0) == make_schedule(7, 60.0)


def test_another_seed_gives_another_schedule() -> None:
    assert len({make_schedule(seed, 60.0) for seed in SEEDS}) == len(SEEDS)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short = make_schedule(7, 20.0)
    assert make_schedule(7, 60.0)[: len(short)] == short


def test_a_minute_has_every_kind() -> None:
    for seed in SEEDS:
        assert {injection.kind for injection in make_schedule(seed, 60.0)} == set(KINDS)


def test_no_time_no_injections() -> None:
    assert make_schedule(7, 0.0) == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_injections_are_in_order_and_within_the_run(seed: int) -> None:
    times = [injection.at for injection in make_schedule(seed, 60.0)]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] <= 60.0


@pytest.mark.parametrize("seed", SEEDS)
def test_only_running_workers_are_targets(seed: int) -> None:
    present = set(range(WORKERS))
    for injection in make_schedule(seed, 60.0):
        if injection.kind == "join":
            assert injection.target not in present
            present.add(target_of(injection))
        elif injection.kind in (*ENDS_A_WORKER, "freeze", "drain worker"):
            assert injection.target in present
        if injection.kind in ENDS_A_WORKER:
            present.remove(target_of(injection))
        assert 1 <= len(present) <= MAX_WORKERS


@pytest.mark.parametrize("seed", SEEDS)
def test_only_existing_lines_producers_and_partitions_are_targets(seed: int) -> None:
    for injection in make_schedule(seed, 60.0):
        if injection.kind in ("cut", "silence", "lose requests", "lose replies"):
            assert target_of(injection) in range(LINES)
        if injection.kind in ("malformed", "raising", "poison", "hang"):
            assert target_of(injection) in range(PRODUCERS)
        if injection.kind == "pause partition":
            assert target_of(injection) in range(PARTITIONS)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_server_is_back_before_its_next_fault(seed: int) -> None:
    back = 0.0
    for injection in make_schedule(seed, 60.0):
        if injection.kind in HARMS_THE_SERVER:
            assert injection.at > back
            back = injection.at + injection.seconds


def target_of(injection: Injection) -> int:
    assert injection.target is not None
    return injection.target
