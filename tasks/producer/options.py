"""The options of the decorators, once: type checkers read them here, and the decorators refuse any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Literal, TypedDict

from celery_partitions.model.policy import Exhausted, Holds, RetryPolicy


class TimerOptions(TypedDict, total=False):
    """Those of `on_timer`."""

    on_error: RetryPolicy | Exhausted | None
    time_limit: timedelta | float | None
    executor: Literal["threads"] | None
    concurrency: int | None
    strict: bool


class StageOptions(TimerOptions, total=False):
    """Those of `computation_multi`."""

    rate_limit: str | None
    rate_limit_key: Callable[[Any], Any] | None
    burst: int | None
    formerly: str | Iterable[str]


class StateStageOptions(StageOptions, total=False):
    """Those of `state_computation_multi`."""

    ttl: timedelta | float | None
    on_expire: Callable[..., Any] | None


class Options(StageOptions, total=False):
    """Those of `computation`, without those that decide its type."""

    holds: Holds
    deduplicate: timedelta | float | None
    reply: bool
    follow_ups: bool


class StateOptions(Options, StateStageOptions, total=False):
    """Those of `state_computation`, without those that decide its type."""
