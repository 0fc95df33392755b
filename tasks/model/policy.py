"""What happens when a computation raises: retries, and what follows when no retries are left.

During retries only the message's own key waits: it is parked, and its later messages wait behind it. `after_failure` returns
the decision as a value; the step acts on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec

from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.rate_limit import MAX_BURST, NO_LIMIT, per_second

#: What happens when a message's retries are used up.
Exhausted = Literal["park", "dead_letter", "hold", "stop"]
EXHAUSTED_CHOICES: tuple[Exhausted, ...] = get_args(Exhausted)
#: What waits while a failed message waits: all messages of its key, or only those of its computation for that key.
Holds = Literal["key", "computation"]
HOLDS_CHOICES: tuple[Holds, ...] = get_args(Holds)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed message is retried, how often, and what happens after the last retry.

    `attempts`: the number of retries after the first try. `backoff_seconds`: the wait before the first retry; it doubles with each
    retry, up to `longest_backoff_seconds`. `jitter`: each wait varies randomly by up to this fraction, so that keys that failed
    together do not retry together. `only`: retry only these exceptions; any other counts as if no retries were left.

    `exhausted`: what happens when no retries are left. Except for `dead_letter`, the message keeps its place, and a dead letter
    reports it:

    - `park`: the key keeps waiting. The message is retried at the longest wait until it succeeds or an operator acts.
    - `dead_letter`: the message becomes a dead letter. The key continues with its next message.
    - `hold`: the key waits until an operator acts.
    - `stop`: the key waits, and the whole partition is paused. When it is resumed, the message is retried immediately.

    Raises `DeclarationError` for invalid values.
    """

    attempts: int = 3
    backoff_seconds: float = 1.0
    longest_backoff_seconds: float = 300.0
    jitter: float = 0.1
    only: tuple[type[BaseException], ...] = (BaseException,)
    exhausted: Exhausted = "park"

    def __post_init__(self) -> None:
        if self.attempts < 0 or self.backoff_seconds < 0 or self.longest_backoff_seconds < 0:
            raise DeclarationError("RetryPolicy: attempts and seconds must not be negative")
        if not 0 <= self.jitter <= 1:
            raise DeclarationError(f"RetryPolicy: jitter must be from 0 to 1, not {self.jitter!r}")
        if self.exhausted not in EXHAUSTED_CHOICES:
            raise DeclarationError(f"RetryPolicy: exhausted must be one of {', '.join(EXHAUSTED_CHOICES)}, not {self.exhausted!r}")
        if not all(isinstance(one, type) and issubclass(one, BaseException) for one in self.only):
            raise DeclarationError("RetryPolicy: only must be a tuple of exception classes")

    def wait_after(self, attempt: int, random: float) -> float:
        """Seconds between try number `attempt` (the first is 1) and the next. `random`: from 0 to 1."""
        seconds = min(self.longest_backoff_seconds, self.backoff_seconds * 2 ** min(attempt - 1, 64))
        return float(seconds * (1 + self.jitter * (2 * random - 1)))


class PolicyChange(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """An operator's change of a computation's failure policy and rate limit. None keeps what the code declares."""

    attempts: int | None = None
    backoff_seconds: float | None = None
    longest_backoff_seconds: float | None = None
    jitter: float | None = None
    exhausted: Exhausted | None = None
    #: In place of the declared rate limit (`rate_limit.py`); `none`: no limit.
    rate_limit: str | None = None
    burst: int | None = None


def effective_policy(
    default: RetryPolicy, declared: RetryPolicy | Exhausted | None, change: PolicyChange | None
) -> RetryPolicy:
    """The policy in force: the computation's, else the settings', with the operator's change applied."""
    if isinstance(declared, RetryPolicy):
        policy = declared
    else:
        policy = default if declared is None else replace(default, exhausted=declared)
    if change is None:
        return policy
    changed = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None and name not in ("rate_limit", "burst")}
    return replace(policy, **changed)


def check_limit(change: PolicyChange) -> None:
    """Raise `ValueError` if the rate limit of a change is invalid."""
    if change.rate_limit is not None and change.rate_limit != NO_LIMIT:
        per_second(change.rate_limit)
    if change.burst is not None and not 1 <= change.burst <= MAX_BURST:
        raise ValueError(f"burst must be an integer from 1 to {MAX_BURST:,}, not {change.burst}")


@dataclass(frozen=True, slots=True)
class TryAgain:
    """A retry is left: park the key for `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """No retry is left, and the key waits: for `seconds`, or until an operator acts (None)."""

    seconds: float | None
    pause: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No retry is left: the message becomes a dead letter, and its key continues."""


AfterFailure = TryAgain | Wait | GiveUp


def after_failure(policy: RetryPolicy, error: BaseException, attempt: int, random: Callable[[], float]) -> AfterFailure:
    """The decision after try number `attempt` of a message raised `error`."""
    if attempt <= policy.attempts and isinstance(error, policy.only):
        return TryAgain(policy.wait_after(attempt, random()))
    match policy.exhausted:
        case "park":
            return Wait(policy.wait_after(max(attempt, policy.attempts + 1), random()), pause=False)
        case "hold":
            return Wait(None, pause=False)
        case "stop":
            return Wait(0.0, pause=True)
        case "dead_letter":
            return GiveUp()
