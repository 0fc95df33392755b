"""Each malformed message is refused for the reason that the verdict expects, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_partitions.model.items import Misrouted
from tests.chaos.application import play
from tests.chaos.junk import JUNK
from tests.model.build import read


@pytest.mark.parametrize("partition", [0, None])
@pytest.mark.parametrize(("reason", "make"), [one for one in JUNK if one[0] != "task-failed"])  # read as any plain task
def test_refused_for_its_reason(reason: str, make: Callable[[int], bytes], partition: int | None) -> None:
    (item,) = read([play.computation], [make(7)], partition=partition)
    if isinstance(item, Misrouted):  # the ingress does not ask when it is due
        (item,) = read([play.computation], [item.raw], partition=item.partition)
    assert getattr(item, "reason", item) == reason


def test_no_two_are_the_same() -> None:
    made = [make(number) for number in range(3) for _, make in JUNK]
    assert len(set(made)) == len(made)
