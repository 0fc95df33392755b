"""A batch's messages are freed when it is committed, and not by a later garbage collection: collections are rare in a worker."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from celery_partitions.model.batch_step import BatchStep
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.single_step import SingleStep
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until
from tests.worker import test_celery_context, test_context_of_calls
from tests.worker.test_celery_context import Visit
from tests.worker.test_context_of_calls import loop_of

KEYS, BATCHES = 3, 3


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def steps_in_memory(besides: Iterable[int] = ()) -> list[object]:
    """`besides`: ids of those that other tests of this process have left."""
    return [one for one in gc.get_objects() if type(one) in (BatchStep, SingleStep, Outcome) and id(one) not in besides]


def do_nothing(visit: Visit) -> None: ...


def fail_first(visit: Visit) -> None:
    if visit.who not in failed:
        failed.add(visit.who)
        raise ValueError(visit)


failed: set[str] = set()


@pytest.mark.parametrize("does", [do_nothing, fail_first])
@pytest.mark.parametrize("name", ["tests.context: visit", "tests.context: visits", *test_context_of_calls.NAMES])
def test_no_step_is_left(make_live: Callable[..., LiveGroup], name: str, does: Callable[[Visit], None]) -> None:
    live = make_live(PARTITIONS=1)
    test_celery_context.doing[:] = test_context_of_calls.doing[:] = [does]
    failed.clear()
    with loop_of(live) as loop, no_collection():
        before = {id(one) for one in steps_in_memory()}
        for batch in range(1, BATCHES + 1):
            for number in range(KEYS):
                live.send_task(name, {"who": f"k{number}", "number": batch})
            loop.look_again()
            loop.live_until(lambda: live.processed() == batch * KEYS and not loop.owned.parked)  # noqa: B023 - called at once
            wait_until(lambda: steps_in_memory(before) == [], 60, message="steps are left")  # a thread may still leave its call
