"""The history check can be trusted: it passes on the real engine, and fails on every engine that is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.scenarios import SOUND, Engine, lost_and_held_again, lost_replies, overtaken, steady_work
from tests.fundamentals.live import LiveGroup
from tests.support.history import HistoryError
from tests.support.proxy import Proxy


def broken(name: str) -> Engine:
    return {"BROKEN_ENGINE": name}


def test_an_overtaken_worker_changes_nothing(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    overtaken(make_live(redis_url, PARTITIONS=1), SOUND)


def test_without_the_fence_an_overtaken_worker_is_caught(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    with pytest.raises(HistoryError) as caught:
        overtaken(make_live(redis_url, PARTITIONS=1), broken("no fence"))
    assert caught.value.kind == "duplicate"


def test_a_lost_reply_changes_nothing(live: LiveGroup, proxy: Proxy) -> None:
    lost_replies(live, proxy, SOUND)


def test_a_commit_that_is_written_again_after_a_lost_reply_is_caught(live: LiveGroup, proxy: Proxy) -> None:
    with pytest.raises(HistoryError) as caught:
        lost_replies(live, proxy, broken("commits again on a retry"))
    assert caught.value.kind == "loss"


def test_work_without_faults_passes(live: LiveGroup) -> None:
    steady_work(live, SOUND)


@pytest.mark.parametrize("engine", ["trims one too many", "forgets the states"])
def test_a_commit_script_that_is_wrong_is_caught(live: LiveGroup, engine: str) -> None:
    with pytest.raises(HistoryError) as caught:
        steady_work(live, broken(engine))
    assert caught.value.kind == "loss"


def test_a_worker_that_owns_a_partition_again_reads_its_states_again(
    make_live: Callable[..., LiveGroup], redis_url: str
) -> None:
    lost_and_held_again(make_live(redis_url, PARTITIONS=1), SOUND)


def test_states_that_are_kept_after_a_lost_lease_are_caught(
    make_live: Callable[..., LiveGroup], redis_url: str
) -> None:
    with pytest.raises(HistoryError) as caught:
        lost_and_held_again(make_live(redis_url, PARTITIONS=1), {"KEEP_STATES": "1"})
    assert caught.value.kind == "loss"
