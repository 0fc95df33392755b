"""What a worker logs about errors of Redis: one line for what concerns the whole server, one for each partition otherwise."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass

import pytest
import redis

from celery_partitions.store.leases import Lease
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.recovery import LOG_SECONDS, Recovery

SCRIPT = " script: 1503cd69bedc5811edc25741d9d85a8512142192, on @user_script:160."
FULL_DISK = "MISCONF Errors writing to the AOF file: No space left on device"
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


@dataclass
class Clock:
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def partitions() -> list[OwnedPartition]:
    return [OwnedPartition(Lease(partition, 1), lambda: 0.0) for partition in "012"]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_full_disk_is_one_line_a_minute(partitions: list[OwnedPartition], caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    recovery = Recovery(clock, random.random)
    for clock.now in (0.0, 0.5, LOG_SECONDS, LOG_SECONDS + 1):
        for owned in partitions:
            recovery.of_partition(owned, redis.ResponseError(FULL_DISK + SCRIPT))
            assert owned.rest_until > clock.now
    assert lines(caplog) == [f"partitions: Redis refuses to write ({FULL_DISK}); retrying until it works"] * 2


def test_the_error_of_a_partition_is_a_line_for_each(partitions: list[OwnedPartition], caplog: pytest.LogCaptureFixture) -> None:
    recovery = Recovery(Clock(), random.random)
    for _ in range(3):
        for owned in partitions:
            recovery.of_partition(owned, redis.ResponseError(WRONG_TYPE + SCRIPT))
    assert lines(caplog) == [f"partition {number}: {WRONG_TYPE}; retrying until it works" for number in "012"]
