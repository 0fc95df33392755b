"""A rolling deploy: two versions of the code run at the same time, and producers send to computations that only one of them has."""

from __future__ import annotations

from collections.abc import Callable

from tests.fundamentals.application import Deed, witness
from tests.fundamentals.live import LiveGroup
from tests.support.applications import trouble
from tests.support.applications.sequences import Step, record
from tests.support.applications.trouble import Trouble, policed
from tests.support.wait import wait_until

KEYS, ROUNDS = 20, 10


def test_no_message_dies_while_a_worker_knows_its_task(make_live: Callable[..., LiveGroup]) -> None:
    """The old version has no `policed`, the new one has no `witness`; both have `record`. Nothing waits long enough to be known by chance."""
    live = make_live(PARTITIONS=4, PARTITIONS_DEPLOY_WAIT_SECONDS=1, PARTITIONS_LEASE_SECONDS=3)
    live.start_worker().wait_ready()
    live.start_worker(module=trouble.__name__).wait_ready()
    live.wait_owned(by=2)
    keys = [f"key-{number}" for number in range(KEYS)]
    for number in range(ROUNDS):
        live.send(policed, [Trouble(key, number) for key in keys])
        live.send(witness, [Deed(key, number) for key in keys])
        live.send(record, [Step(key, number) for key in keys])
    wait_until(lambda: live.processed() >= 3 * KEYS * ROUNDS, 120)
    assert live.dead_letters() == []
    for computation in (policed, witness, record):
        assert live.numbers(computation) == {key: list(range(ROUNDS)) for key in keys}
