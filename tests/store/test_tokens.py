"""Buckets of rate limits: never above the limit in any span of time, nearly all of it used, and one caller at a time comes back."""

from __future__ import annotations

import heapq
import time

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.store.names import Names
from celery_partitions.store.tokens import TokenRequest, bucket_names, take_tokens
from celery_partitions.testing.keyspace import Keyspace
from celery_partitions.testing.memory import client_of
from tests.chaos.limits import most_within


def request(bucket: str, seconds: float, burst: int, *, waited: bool = False) -> TokenRequest:
    return TokenRequest(bucket_names(Names("partition"), "0", "charge", shared=False), bucket, seconds * 1_000_000, burst, waited)


def check_spans(starts: list[float], seconds: float, burst: int) -> None:
    """In no span of time more starts than the burst (and half a token) and what the rate adds."""
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            span = starts[last] - starts[first]
            assert last - first + 1 <= burst + 0.5 + span / seconds + 1e-3, (starts[first], starts[last])


@given(
    waits=st.lists(st.floats(0, 3), min_size=1, max_size=40),
    seconds=st.sampled_from([0.01, 0.7, 1.0]),
    burst=st.integers(1, 4),
    waited=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_never_above_the_limit_whoever_asks_and_whenever(waits: list[float], seconds: float, burst: int, waited: list[bool]) -> None:
    keyspace = Keyspace()
    keyspace.now = 1_800_000_000.0
    client, starts = client_of(keyspace), []
    for wait, comes_back in zip(waits, waited, strict=False):
        keyspace.now += wait * seconds
        (answer,) = take_tokens(client, [request("k", seconds, burst, waited=comes_back)])
        if answer == 0:
            starts.append(keyspace.now)
    check_spans(starts, seconds, burst)


@given(callers=st.integers(1, 30), burst=st.integers(1, 4), late=st.lists(st.floats(0, 0.004), min_size=1, max_size=20))
def test_callers_that_come_back_when_they_were_told_use_the_whole_limit(callers: int, burst: int, late: list[float]) -> None:
    """Each caller makes one call after another, and is up to 4 ms late; a token comes every 10 ms."""
    keyspace, seconds = Keyspace(), 0.01
    keyspace.now = 1_800_000_000.0
    client, starts, asked = client_of(keyspace), [], 0
    dues = [(keyspace.now, number, False) for number in range(callers)]
    until = keyspace.now + 2.0
    while dues:
        dues.sort()
        due, number, waited = dues.pop(0)
        keyspace.now = max(keyspace.now, due + late[asked % len(late)] * waited)
        asked += 1
        if keyspace.now > until:
            continue
        (answer,) = take_tokens(client, [request("k", seconds, burst, waited=waited)])
        if answer == 0:
            starts.append(keyspace.now)
        dues.append((answer or keyspace.now, number, answer > 0))
    check_spans(starts, seconds, burst)
    assert len(starts) >= 0.95 * 200
    assert asked < 5 * len(starts) + callers  # they do not all come back for each token


@pytest.mark.parametrize(
    ("callers", "burst", "late", "is_enough"),
    [(30, 2, 0.01, True), (1, 1, 0.01, True), (1, 1, 0.02, False)],
    ids=["many keys", "one key", "one key in an engine that comes back too late"],
)
def test_for_minutes_with_kills_nearly_all_of_a_limit_is_used(callers: int, burst: int, late: float, is_enough: bool) -> None:
    """One of two workers is gone for 5 s of every 10. Its callers come back at times that were promised before."""
    keyspace, seconds = Keyspace(), 0.025
    began = keyspace.now = 1_800_000_000.0
    client, starts = client_of(keyspace), []
    dues = [(began, number, False) for number in range(callers)]
    while dues[0][0] < began + 120:
        due, number, waited = heapq.heappop(dues)
        if number % 2 and (due - began) % 10 >= 5:
            heapq.heappush(dues, (due - (due - began) % 10 + 10, number, waited))
            continue
        keyspace.now = max(keyspace.now, due)
        (answer,) = take_tokens(client, [request("k", seconds, burst, waited=waited)])
        if answer == 0:
            starts.append(keyspace.now)
        heapq.heappush(dues, (answer + late if answer else keyspace.now + 0.002, number, answer > 0))
    for span in (1.0, 10.0, 60.0):
        assert most_within(starts, span) <= burst + 1 + span / seconds
    assert (len(starts) >= 0.95 * 120 / seconds) is is_enough


def test_after_an_outage_those_that_wait_do_not_start_together() -> None:
    keyspace = Keyspace()
    keyspace.now = 1_800_000_000.0
    client = client_of(keyspace)
    take_tokens(client, [request("k", 1.0, 1)] * 50)
    keyspace.now += 3600
    answers = take_tokens(client, [request("k", 1.0, 1, waited=True)] * 50)
    assert answers[0] == 0
    assert sorted(set(answers)) == answers  # each at a time of its own


def test_a_token_that_nobody_fetches_goes_to_whoever_asks() -> None:
    keyspace = Keyspace()
    keyspace.now = 1_800_000_000.0
    client = client_of(keyspace)
    take_tokens(client, [request("k", 1.0, 1)] * 50)  # 49 wait, and never come back
    keyspace.now += 2.5
    assert take_tokens(client, [request("k", 1.0, 1)]) == [0]


def test_a_changed_limit_begins_new_buckets(client: redis.Redis) -> None:
    assert take_tokens(client, [request("k", 3600, 1)]) == [0]
    assert take_tokens(client, [request("k", 3600, 1)])[0] > time.time() + 3000
    assert take_tokens(client, [request("k", 0.001, 2)]) == [0]


def test_requests_for_several_sets_take_one_round_trip_and_forgotten_buckets_leave(client: redis.Redis) -> None:
    shared = bucket_names(Names("partition"), "0", "charge", shared=True)
    assert shared == "{partition}:rates:charge"
    own = request("k", 1.0, 1).buckets
    client.zadd(own, {"old": 1})
    answers = take_tokens(client, [request("k", 1.0, 1), request("k", 1.0, 1)._replace(buckets=shared), request("k", 1.0, 1)])
    assert answers[:2] == [0, 0]
    assert 0.5 < answers[2] - time.time() <= 1.0
    assert client.zscore(own, "old") is None
