"""What follows a computation that raises: retries, and what becomes of the message and its key when they are used up.

During retries only the message's own key waits, parked; its later messages queue up behind it. `after_failure` is the
whole decision, as a value; the step acts on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec

from celery_partitions.model.errors import DeclarationError

#: What happens when a message's retries are used up.
Exhausted = Literal["park", "dead_letter", "hold", "stop"]
EXHAUSTED_CHOICES: tuple[Exhausted, ...] = get_args(Exhausted)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a failed message is tried again, and what then.

    `attempts`: retries after the first try. `backoff_seconds`: the wait before the first retry; it doubles with each, up to
    `longest_backoff_seconds`. `jitter`: that fraction of each wait, at random, is added or taken away, so that keys that
    failed together do not come back together. `only`: the exceptions that are worth a retry; others count as used up at once.

    `exhausted`, when retries are used up (but for `dead_letter`, a dead letter tells of the message, which keeps its place):

    - `park`: the key goes on waiting, and the message is tried again at the longest wait, until it succeeds or an operator acts.
    - `dead_letter`: the message leaves to the dead letters; its key goes on with the next message.
    - `hold`: the key waits until an operator acts.
    - `stop`: the key waits, and the whole partition pauses; once it is resumed the message is tried at once.

    Raises `DeclarationError` for values that can't be used.
    """

    attempts: int = 3
    backoff_seconds: float = 1.0
    longest_backoff_seconds: float = 300.0
    jitter: float = 0.1
    only: tuple[type[BaseException], ...] = (BaseException,)
    exhausted: Exhausted = "park"

    def __post_init__(self) -> None:
        if self.attempts < 0 or self.backoff_seconds < 0 or self.longest_backoff_seconds < 0:
            raise DeclarationError("a retry policy's attempts and seconds can't be below zero")
        if not 0 <= self.jitter <= 1:
            raise DeclarationError(f"jitter is a fraction of the wait, 0 to 1, not {self.jitter!r}")
        if self.exhausted not in EXHAUSTED_CHOICES:
            raise DeclarationError(f"then={self.exhausted!r}: say one of {', '.join(EXHAUSTED_CHOICES)}")
        if not all(isinstance(one, type) and issubclass(one, BaseException) for one in self.only):
            raise DeclarationError("only= wants a tuple of exception classes")

    def wait_after(self, attempt: int, random: float) -> float:
        """Seconds between the `attempt`-th try (1 is the first) and the next; `random`: 0 to 1."""
        seconds = min(self.longest_backoff_seconds, self.backoff_seconds * 2 ** min(attempt - 1, 64))
        return float(seconds * (1 + self.jitter * (2 * random - 1)))


class PolicyChange(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What an operator changed of a computation's policy while it runs; None leaves a field as it is declared."""

    attempts: int | None = None
    backoff_seconds: float | None = None
    longest_backoff_seconds: float | None = None
    jitter: float | None = None
    exhausted: Exhausted | None = None


def effective_policy(
    default: RetryPolicy, declared: RetryPolicy | Exhausted | None, change: PolicyChange | None
) -> RetryPolicy:
    """The settings' policy, unless the computation declares one; and over either an operator's change."""
    if isinstance(declared, RetryPolicy):
        policy = declared
    else:
        policy = default if declared is None else replace(default, exhausted=declared)
    if change is None:
        return policy
    changed = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
    return replace(policy, **changed)


@dataclass(frozen=True, slots=True)
class TryAgain:
    """A retry is left: the key is parked for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Retries are used up, and the key waits: for so many seconds, or (None) until an operator acts."""

    seconds: float | None
    pause: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The message goes to the dead letters; its key goes on."""


AfterFailure = TryAgain | Wait | GiveUp


def after_failure(policy: RetryPolicy, error: BaseException, attempt: int, random: Callable[[], float]) -> AfterFailure:
    """What follows the `attempt`-th try of a message that raised `error`."""
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
