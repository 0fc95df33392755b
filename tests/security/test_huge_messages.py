"""A message too large to decode is moved unchanged to the dead letters, and can be sent again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_partitions.model.errors import MessageError
from celery_partitions.store.dead_letters import APART_BYTES, DeadLetter
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until

#: Far more than the limit of a message, and than a dead letter stores in its own record.
HUGE = b'{"headers": {"task": "record", "id": "huge"}, "body": "' + bytes(50_000_000) + b'"}'


def the_dead_letter(live: LiveGroup) -> DeadLetter:
    return wait_until(lambda: next(iter(live.dead_letters()), None), timeout=60, message="no dead letter")


def test_a_huge_message_becomes_a_dead_letter_and_its_queue_continues(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_REDIS_TIMEOUT_SECONDS=60)  # a busy machine needs seconds for a message of this size
    assert len(HUGE) > live.settings.message_bytes and len(HUGE) > APART_BYTES
    live.client.lpush("partition.0", HUGE)
    live.send(record, [Step("key", 1)])
    worker = live.start_workers(1)[0]
    dead_letter = the_dead_letter(live)
    assert (dead_letter.reason, dead_letter.apart, dead_letter.raw) == ("too-large", True, "")
    assert live.group.dead_letters.raw(dead_letter) == HUGE
    wait_until(lambda: live.numbers_of(record, "key") == [1])

    assert live.group.dead_letters.retry([dead_letter]) == 1
    again = wait_until(lambda: next((one for one in live.dead_letters() if one.id != dead_letter.id), None), timeout=60)
    assert live.group.dead_letters.raw(again) == HUGE
    assert live.client.hlen(live.names.dead_raw("0")) == 1
    assert live.group.dead_letters.discard([again]) == 1
    assert not live.client.exists(live.names.dead_raw("0"))
    assert worker.running


def test_a_message_between_the_two_limits_is_a_normal_dead_letter(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    live = make_live(redis_url, PARTITIONS=1, PARTITIONS_MESSAGE_BYTES=5_000)
    live.start_workers(1)
    raw = HUGE[:20_000]
    live.client.lpush("partition.0", raw)
    dead_letter = the_dead_letter(live)
    assert (dead_letter.reason, dead_letter.apart) == ("too-large", False)
    assert live.group.dead_letters.raw(dead_letter) == raw


def test_a_python_producer_refuses_a_message_that_no_worker_would_decode(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    live = make_live(redis_url, PARTITIONS_MESSAGE_BYTES=5_000)
    large = Step("k" * 4_000, 1)
    with pytest.raises(MessageError, match=r"PARTITIONS_MESSAGE_BYTES") as caught:
        live.send(record, [Step("key", 1), large])
    assert caught.value.reason == "too-large"
    with pytest.raises(MessageError, match=r"PARTITIONS_MESSAGE_BYTES"):
        live.send_task("record", {"key": large.key, "number": 1})
    assert sum(row.length for row in live.status().values()) == 1
