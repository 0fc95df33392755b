"""What a computation sends is sent exactly once, with its message's other effects."""

from __future__ import annotations

from tests.fundamentals.application import WITNESSED, Sale, sell
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until


def test_what_a_computation_sends_is_part_of_its_commit(shared: LiveGroup, key: str) -> None:
    """The first try fails after it has sent."""
    shared.client.delete(WITNESSED)
    shared.send_task(sell.name, {"key": key, "number": 7}, task_id=f"sale-{key}")
    wait_until(lambda: shared.numbers_of(sell, key) == [7], message="the second try did not succeed")
    wait_until(lambda: len(shared.witnessed()) == 1, message="the task did not run")
    shared.send_task(sell.name, {"key": key, "number": 8, "fails": False}, task_id=f"sale-2-{key}")
    wait_until(lambda: len(shared.witnessed()) == 2)
    assert [line.partition(":")[2] for line in shared.witnessed()] == ["7", "8"]


def test_messages_to_another_key_too(shared: LiveGroup, key: str) -> None:
    shared.send(sell, [Sale(key, number, fails=False, forward_to=f"{key}-total") for number in range(20)])
    wait_until(lambda: len(shared.numbers_of(sell, f"{key}-total")) == 20)
    assert shared.numbers_of(sell, f"{key}-total") == list(range(20))
