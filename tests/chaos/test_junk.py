"""Each malformed message is refused for the reason that the verdict expects, in every queue."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_partitions.model.items import Misrouted
from tests.chaos.application import play
from tests.chaos.junk import JUNK
from tests.model.build import read


@pytest.mark.parametrize("partition", [0, None])
@pytest.mark.parametrize(("reason", "make"), [one for one in JUNK if one[0] != "task-failed"])  # read like any plain task
def test_it_is_refused_for_the_expected_reason(reason: str, make: Callable[[int], bytes], partition: int | None) -> None:
    (item,) = read([play.computation], [make(7)], partition=partition)
    if isinstance(item, Misrouted):  # the ingress ignores when it is due
        (item,) = read([play.computation], [item.raw], partition=item.partition)
    assert getattr(item, "reason", item) == reason


def test_no_two_messages_are_equal() -> None:
    made = [make(number) for number in range(3) for _, make in JUNK]
    assert len(set(made)) == len(made)
