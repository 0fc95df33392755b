"""The harness's in-memory Redis: redis-py's client and the engine's own scripts in one process."""

from __future__ import annotations

import pytest
import redis

from celery_partitions import source
from celery_partitions.producer.pipelines import applications
from celery_partitions.testing import HarnessError, harness
from celery_partitions.testing.keyspace import Keyspace
from celery_partitions.testing.memory import client_of
from celery_partitions_config.settings import Settings
from tests.testing.applications import Amount, double, key_of, of_its_own


def test_delayed_and_large_messages() -> None:
    with harness(of_its_own, batch_messages=3) as h:
        for number in range(20):
            h.send(Amount("a", number), countdown=number % 4 / 2)
        h.advance(seconds=5)
        assert [number % 4 for number in h.state(of_its_own).seen] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    with harness(applications["words"]) as h:
        h.send_many(["x" * 1_500_000] * 5)


@pytest.mark.parametrize("twice", [False, True])
def test_a_message_sent_again_with_the_same_id(twice: bool) -> None:
    once = source("once", type=Amount, deduplicate=60).key_by(key_of).to(double, name="double once").to_sinks([])
    with harness(once, twice=twice) as h:
        for seconds in (0, 10, 20, 200):
            h.advance(seconds=seconds)
            h.send(Amount("a", 1), message_id="the one")
        assert h.state("double once").total == 4
    with harness(once, settings=Settings(deduplicate_ids=4), partitions=1) as h:
        for number in [*range(5), *range(5)]:
            h.send(Amount("a", 1), message_id=str(number))
        assert h.state("double once").total > 10


def test_a_key_of_the_wrong_type() -> None:
    with harness(applications["words"]) as h:
        h.installation.group.client.hset("counted", "a", "hash")
        with pytest.raises(HarnessError, match="'counted'"):
            h.send("the cat")


def test_a_command_that_the_engine_does_not_use_is_refused() -> None:
    client = client_of(Keyspace())
    with pytest.raises(redis.ResponseError, match="unknown command 'GETDEL'"):
        client.getdel("x")
    client.set("x", "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.hget("x", "field")


def test_transactions_pipelines_and_scripts_answer_as_a_server() -> None:
    client = client_of(Keyspace())
    with client.pipeline(transaction=True) as pipe:
        pipe.hset("h", "f", 1)
        pipe.lpush("l", "a", "b")
        pipe.lrange("l", 0, -1)
        assert pipe.execute() == [1, 2, [b"b", b"a"]]
    assert client.register_script("return {KEYS[1], redis.call('HGET', KEYS[1], 'f')}")(["h"]) == [b"h", b"1"]
