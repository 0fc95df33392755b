"""After a crash the next owner runs messages in groups, and reads no message twice for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from celery_partitions.worker.batch import Batch
from celery_partitions.worker.isolation import alone
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup, live_groups
from tests.support.proxy import Proxy
from tests.worker.by_hand import loop_by_hand

SUSPECTS, BACKLOG = 2000, 3000


def test_the_groups_are_large_and_are_read_once(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=SUSPECTS)
    live.send(record, [Step("key", number) for number in range(BACKLOG)])
    live.client.hset(live.names.meta("0"), "to_isolate", SUSPECTS)
    with loop_by_hand(live) as loop:
        asked, taken = 0, []
        while (owned := loop.next_partition()) is not None:
            loop.work(owned)
            if loop.commits.pending is not None:
                commit = loop.commits.pending.planned.commit
                taken.append(commit.taken)
                asked += commit.ask if loop.owned.to_isolate > commit.taken else 0
            loop.commits.settle()
    assert sum(taken) == BACKLOG
    assert asked < SUSPECTS
    assert len(taken) <= 6
    assert not live.client.exists(live.names.isolation("0"))


def noted(live: LiveGroup) -> dict[bytes, bytes]:
    return live.client.hgetall(live.names.isolation("0"))  # type: ignore[return-value]


def test_a_note_whose_commit_was_refused_is_taken_back(make_live: Callable[..., LiveGroup]) -> None:
    """Else the worker's death, whatever the reason, would count for a message that it did not run any more."""
    live = make_live(PARTITIONS=1)
    live.send(record, [Step("key", number) for number in range(3)])
    live.client.hset(live.names.meta("0"), "to_isolate", 3)
    with loop_by_hand(live) as loop:
        assert loop.next_partition() is not None
        loop.peek(loop.owned)
        live.client.hincrby(live.names.meta("0"), "edit_version", 1)
        loop.work(loop.owned)
        assert len(noted(live)) == 3
        loop.commits.settle()
        assert len(noted(live)) == 3, "the commit was not refused"
        live.client.hdel(live.names.meta("0"), "to_isolate")
        loop.take_turns()
        assert live.processed() == 3
        assert noted(live) == {}


def test_a_death_is_taken_back_once_the_server_answers_again(tmp_path: Path, proxy: Proxy) -> None:
    """The worker was cut off for longer than its lease. It is alive, so no message has killed it."""
    with live_groups(tmp_path) as make:
        live = make(proxy.url(), PARTITIONS=1)
        live.send(record, [Step("key", 0)])
        live.client.hset(live.names.meta("0"), "to_isolate", 1)
        with loop_by_hand(live) as loop:
            loop.peek(loop.owned)
            alone(loop.client, loop.names, loop.owned, Batch(loop.owned.messages), loop.settings)
            share = replace(loop.holdings.share, owned={})
            proxy.refuse()
            proxy.cut()
            loop.follow(share)
            loop.holdings.take_up_share()
            proxy.accept()
            assert noted(live)
            loop.follow(replace(share))
            loop.holdings.take_up_share()
            assert noted(live) == {}
