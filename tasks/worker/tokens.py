"""Takes tokens for calls of computations with a rate limit, by the limits in force: as declared, or as an operator has changed them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

import redis

from celery_partitions.model.caller import Call
from celery_partitions.model.computation import Computation
from celery_partitions.model.rate_limit import NoToken, RateLimit
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import Names
from celery_partitions.store.tokens import TokenRequest, bucket_names, take_tokens
from celery_partitions.worker.daemon_pool import DaemonPool
from celery_partitions.worker.logs import log_fields

logger = logging.getLogger("celery.worker.partitions")

class Tokens:
    """Made once per loop. Its methods may be called in any thread."""

    def __init__(self, client: redis.Redis, names: Names, limit_of: Callable[[Computation], RateLimit | None]) -> None:
        self.client, self.names, self.limit_of = client, names, limit_of

    def request(self, partition: str, call: Call) -> TokenRequest | None:
        """What a call needs; None: it needs no token. Raises what `rate_limit_key=` raises."""
        limit = self.limit_of(call.computation)
        if limit is None:
            return None
        bucket = limit.bucket_of(call.arguments[0], call.item.key)
        buckets = bucket_names(self.names, partition, call.computation.name, shared=limit.key is not None)
        return TokenRequest(buckets, bucket, limit.microseconds, limit.burst, call.waited)

    def take_many(self, requests: list[TokenRequest]) -> list[float | None]:
        """For each call: 0 if it may start, or when to ask again. None: the server did not answer."""
        try:
            return [*take_tokens(self.client, requests)]
        except SERVER_ERRORS as error:  # nothing has failed: the calls wait
            logger.warning("a rate limit can't be read: %s; its calls wait", error, extra=log_fields(None))
            return [None] * len(requests)

    def take(self, partition: str, call: Call) -> None:
        """Take the token of a call that is about to start. Raises `NoToken` if it must wait."""
        request = self.request(partition, call)
        if request is not None and (due := self.take_many([request])[0]) != 0:
            raise NoToken(due)


class _Asked(NamedTuple):
    request: TokenRequest
    answer: asyncio.Future[float | None]


class SharedAsking:
    """Tokens for the call thread. Calls that start together share a round trip, which does not hold up the event loop."""

    def __init__(self, tokens: Tokens, loop: asyncio.AbstractEventLoop) -> None:
        self.tokens, self.loop = tokens, loop
        self._asked: list[_Asked] = []
        self._is_asking = False
        self._pool = DaemonPool(1, "partition-tokens")

    async def take(self, partition: str, call: Call) -> None:
        """As `Tokens.take`."""
        request = self.tokens.request(partition, call)
        if request is None:
            return
        asked = _Asked(request, self.loop.create_future())
        self._asked.append(asked)
        if not self._is_asking:
            self._is_asking = True
            self.loop.call_soon(self._ask)
        if (due := await asked.answer) != 0:
            raise NoToken(due)

    def _ask(self) -> None:
        asked, self._asked = self._asked, []
        future = asyncio.wrap_future(self._pool.submit(self.tokens.take_many, [one.request for one in asked]), loop=self.loop)

        def answer(done: asyncio.Future[list[float | None]]) -> None:
            self._is_asking = bool(self._asked)
            if self._asked:
                self._ask()
            error = done.exception()
            for number, one in enumerate(asked):
                if not one.answer.done():  # else its run was cancelled
                    if error is not None:
                        one.answer.set_exception(error)
                    else:
                        one.answer.set_result(done.result()[number])

        future.add_done_callback(answer)
