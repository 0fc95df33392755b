"""A worker that is killed while a key takes turns: the next one goes on, in order."""

from __future__ import annotations

from collections.abc import Callable

from tests.fundamentals.application import Deed, witness
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until

MANY = 150


def test_a_hot_key_goes_on_after_a_kill(redis_url: str, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_LEASE_SECONDS=1)
    live.send(witness, [*(Deed("hot", number, 0.01) for number in range(MANY)), *(Deed(f"k{key}", 0, 0.01) for key in range(3))])
    worker = live.start_worker()
    wait_until(lambda: [one for one in live.group.parked_keys.all() if one.why == "ready"])
    assert {key: numbers for key, numbers in live.numbers(witness).items() if key != "hot"} == {f"k{key}": [0] for key in range(3)}
    worker.kill()
    assert len(live.numbers_of(witness, "hot")) < MANY
    live.send(witness, [*(Deed("hot", number, 0.01) for number in range(MANY, MANY + 20)), Deed("k0", 1)])
    live.start_worker()
    live.wait_drained()
    assert live.numbers(witness) == {"hot": list(range(MANY + 20)), "k0": [0, 1], "k1": [0], "k2": [0]}
    assert live.dead_letters() == []
    assert list(live.group.parked_keys.all()) == []
