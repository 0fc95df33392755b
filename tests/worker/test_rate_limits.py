"""Keys that wait for a rate limit, in a worker's loop: they are not in the way, and follow an operator's change at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from celery_partitions.model.policy import PolicyChange
from celery_partitions.store.client import connect
from celery_partitions.store.leases import balance
from celery_partitions.store.tokens import TokenRequest
from celery_partitions.worker.tokens import Tokens
from celery_partitions_config.settings import Settings
from tests.fundamentals.live import LiveGroup
from tests.support.applications.limited import Request, per_key, recorder
from tests.support.environment import NO_SERVER_URL
from tests.worker.by_hand import LoopByHand


@pytest.fixture
def live(make_live: Callable[..., LiveGroup], monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveGroup]:
    live = make_live(PARTITIONS=1, PARTITIONS_MAILBOX_MESSAGES=2)
    monkeypatch.setenv("REDIS_URL", live.env["REDIS_URL"])
    recorder.cache_clear()
    yield live
    recorder().close()
    recorder.cache_clear()


def change(live: LiveGroup, loop: LoopByHand, rate: str) -> None:
    live.group.policies.change(per_key.name, PolicyChange(rate_limit=rate), by="a test")
    loop.follow(balance(loop.client, live.names, "by-hand/1", lease_seconds=60, partitions=1))
    loop.holdings.take_up_share()


def test_calls_wait_while_the_limit_cannot_be_read(live: LiveGroup, caplog: pytest.LogCaptureFixture) -> None:
    unreachable = connect(Settings(redis_url=NO_SERVER_URL))
    request = TokenRequest(live.names.shared_rates("a computation"), "all", 1000.0, 1, False)
    assert Tokens(unreachable, live.names, lambda _: None).take_many([request]) == [None]
    assert "its calls wait" in caplog.text


def test_a_limit_is_changed_while_keys_wait(live: LiveGroup, loop: LoopByHand, caplog: pytest.LogCaptureFixture) -> None:
    change(live, loop, "1/h")
    live.send(per_key, [Request("ada", number) for number in range(6)])
    live.send(per_key, [Request("bob", 0)])
    loop.take_turns()
    assert live.numbers(per_key) == {"ada": [0], "bob": [0]}
    (parked,) = live.group.parked_keys.all()
    assert (parked.key, parked.why, parked.waiting, parked.error, parked.attempt) == ("ada", "rate", 5, "", 1)
    assert parked.due is not None
    assert 3000 < parked.due - live.group.now() <= 3600
    assert [(row.parked, row.running) for row in live.group.status() if row.parked or row.running] == [(0, 1)]
    live.send(per_key, [Request("ada", 6)])
    loop.look_again()
    loop.take_turns()
    assert live.numbers_of(per_key, "ada") == [0]
    assert live.dead_letters() == []
    assert [one for one in caplog.records if one.levelname == "WARNING"] == []  # nothing has gone wrong
    change(live, loop, "none")
    loop.take_turns()
    assert live.numbers_of(per_key, "ada") == list(range(7))
    assert list(live.group.parked_keys.all()) == []
    assert all(row.parked == row.running == 0 for row in live.group.status())


def test_a_call_is_due_when_the_server_said_however_late_the_commit_is(live: LiveGroup, loop: LoopByHand) -> None:
    """Counted from the commit, each call would begin a little later, and the key would never use its whole limit."""
    change(live, loop, "1/h")
    live.send(per_key, [Request("ada", number) for number in range(2)])
    loop.take_turns()
    ((_, line),) = [one for one in live.client.zscan_iter(live.names.rates("0", per_key.name)) if one[0].endswith(b"\0line")]
    (parked,) = live.group.parked_keys.all()
    assert parked.due == pytest.approx(line / 1e6 - 3600, abs=1e-5)  # the line ends one token later


def test_the_next_owner_keeps_the_limit(live: LiveGroup, loop: LoopByHand) -> None:
    change(live, loop, "1/h")
    live.send(per_key, [Request("ada", number) for number in range(3)])
    loop.take_turns()
    loop.owned.forget_all()
    loop.take_turns()
    live.group.parked_keys.retry("ada", by="a test")
    loop.owned.notify(loop.owned.edit_version + 1, paused=False)
    loop.take_turns()
    assert live.numbers_of(per_key, "ada") == [0]
    (parked,) = live.group.parked_keys.all()
    assert (parked.why, parked.waiting) == ("rate", 2)
