"""The buckets of rate limits in Redis. A call takes its token before it starts, so a crash never gives a token back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import redis

from celery_partitions.model.keys import key_bytes
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script


class TokenRequest(NamedTuple):
    """A call that needs a token."""

    #: The sorted set with its bucket.
    buckets: str
    bucket: str
    #: The limit: µs for one token, and the maximum number of tokens.
    microseconds: float
    burst: int
    #: It comes at a time that it was promised.
    waited: bool


def bucket_names(names: Names, partition: str, computation: str, *, shared: bool) -> str:
    """The sorted set with a computation's buckets. `shared`: those of `rate_limit_key=`, which all partitions share."""
    return names.shared_rates(computation) if shared else names.rates(partition, computation)


def take_tokens(client: redis.Redis, requests: Sequence[TokenRequest]) -> list[float]:
    """For each call: 0 if it may start, or when to ask again (seconds since the epoch, server clock). One round trip. Raises redis-py's errors."""
    grouped: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        grouped.setdefault(request.buckets, []).append(number)
    calls = []
    for buckets, numbers in grouped.items():
        words: list[object] = []
        for number in numbers:
            one = requests[number]
            # A changed limit begins new buckets.
            bucket = b"%s/%d %s" % (repr(one.microseconds).encode(), one.burst, key_bytes(one.bucket))
            words += bucket, repr(one.microseconds), one.burst, int(one.waited)
        calls.append(([buckets], words))
    dues = [0.0] * len(requests)
    answers = [script("take_tokens").run(client, *calls[0])] if len(calls) == 1 else script("take_tokens").run_many(client, calls)
    for numbers, answer in zip(grouped.values(), answers, strict=True):
        if isinstance(answer, Exception):
            raise answer
        for number, microseconds in zip(numbers, answer, strict=True):
            dues[number] = microseconds / 1_000_000
    return dues
