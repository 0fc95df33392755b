"""Rate limits: how often the calls of a key, or of several keys that share a bucket of tokens, may start.

A bucket holds at most `burst` tokens and gets `per_second` of them. Each call takes one before it starts. So in any time span a bucket
allows at most `burst` calls more than the rate itself. Who keeps the buckets: `store/tokens.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.keys import normalize_key

#: The default burst is what the rate allows in this time, but at least 1: at high rates calls share commits.
BURST_SECONDS = 0.05
MAX_BURST = 1_000_000
#: When a call asks again if the server does not answer.
NO_ANSWER_SECONDS = 1.0
#: In place of a rate: no limit.
NO_LIMIT: Final = "none"

_SPELLING = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:/([smh]))?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, None: 1}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A computation's declared limit, or one that an operator has set."""

    #: As declared, for example `100/m`.
    text: str
    per_second: float
    burst: int
    #: Returns a message's bucket, which all partitions share. None: each key has a bucket of its own.
    key: Callable[[Any], Any] | None = None

    @property
    def microseconds(self) -> float:
        """The time in which a bucket gets one token."""
        return 1_000_000 / self.per_second

    def bucket_of(self, message: Any, key: str) -> str:
        """The bucket of a message. Raises what `rate_limit_key=` raises, and `KeyExtractionError` if it returns no text or number."""
        return key if self.key is None else normalize_key(self.key(message))


class NoToken(Exception):
    """A call may not start now. Raised in the place of the call; nothing has failed."""

    def __init__(self, due: float | None) -> None:
        super().__init__("the rate limit does not allow this call now")
        #: When there is a token (seconds since the epoch, server clock). None: the server did not say.
        self.due = due


def per_second(text: str) -> float:
    """A rate in Celery's spelling (`10/s`, `100/m`, `5/h`, `10`: per second) as calls per second. Raises `ValueError`."""
    found = _SPELLING.fullmatch(text.strip())
    number = float(found[1]) / _SECONDS[found[2]] if found is not None else 0.0
    if not 0 < number < 1e9:
        raise ValueError(f"{text!r:.40} is not a rate. Write it as Celery does: 10/s, 100/m or 5/h, above zero")
    return number


def default_burst(rate: float) -> int:
    return max(1, math.ceil(rate * BURST_SECONDS))


def rate_limit_of(name: str, rate_limit: object, rate_limit_key: object, burst: object) -> RateLimit | None:
    """Check what a declaration says about its rate. Raises `DeclarationError` that says what to change."""
    if rate_limit is None:
        for option, value in (("rate_limit_key", rate_limit_key), ("burst", burst)):
            if value is not None:
                raise DeclarationError(f'computation {name!r}: {option}= needs a rate_limit=, such as "100/m"')
        return None
    if isinstance(rate_limit, bool) or not isinstance(rate_limit, str | int | float):
        raise DeclarationError(f'computation {name!r}: rate_limit must be a text such as "100/m", not {rate_limit!r:.40}')
    try:
        rate = per_second(str(rate_limit))
    except ValueError as error:
        raise DeclarationError(f"computation {name!r}: rate_limit: {error}") from None
    if rate_limit_key is not None and not callable(rate_limit_key):
        raise DeclarationError(f"computation {name!r}: rate_limit_key= must be a function of one message that returns its bucket, for example a host name")
    if burst is not None and (isinstance(burst, bool) or not isinstance(burst, int) or not 1 <= burst <= MAX_BURST):
        raise DeclarationError(f"computation {name!r}: burst must be an integer from 1 to {MAX_BURST:,}, not {burst!r:.40}")
    return RateLimit(str(rate_limit), rate, burst or default_burst(rate), rate_limit_key)


def changed_limit(declared: RateLimit, text: str | None, burst: int | None) -> RateLimit | None:
    """The declared limit with an operator's change. None: there is no limit. Raises `ValueError` for an invalid rate."""
    if text == NO_LIMIT:
        return None
    if text is None:
        return declared if burst is None else replace(declared, burst=burst)
    rate = per_second(text)
    return replace(declared, text=text, per_second=rate, burst=burst or default_burst(rate))
