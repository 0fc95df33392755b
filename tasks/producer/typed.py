"""What the decorators return, for type checkers only: sending methods whose message has the type of the function's first parameter.

At run time these are `OrderedComputation` and `StateComputation`. A message is an object of that type, or its fields.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

from celery.result import AsyncResult

from celery_partitions.producer.bulk import WhenFull
from celery_partitions.producer.handle import OrderedComputation, StateComputation

M = TypeVar("M")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Fields = Mapping[str, Any]


class _Sends(Generic[M]):
    @overload
    def delay(self, message: M | Fields, /, *, message_id: str | None = None) -> AsyncResult: ...
    @overload
    def delay(self, *, message_id: str | None = None, **message: Any) -> AsyncResult: ...
    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult: ...

    @overload
    async def adelay(self, message: M | Fields, /, *, message_id: str | None = None) -> AsyncResult: ...
    @overload
    async def adelay(self, *, message_id: str | None = None, **message: Any) -> AsyncResult: ...
    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult: ...

    @overload
    def delay_on_commit(self, message: M | Fields, /, *, message_id: str | None = None) -> None: ...
    @overload
    def delay_on_commit(self, *, message_id: str | None = None, **message: Any) -> None: ...
    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None: ...

    def apply_async(self, args: Sequence[M | Fields] | None = None, kwargs: Fields | None = None, **options: Any) -> AsyncResult:
        raise NotImplementedError

    def send_many(
        self,
        messages: Iterable[M | Fields],
        progress: bool | None = None,
        *,
        id_of: Callable[[Any], str] | None = None,
        when_full: WhenFull = "block",
    ) -> int:
        raise NotImplementedError

    async def asend_many(
        self,
        messages: Iterable[M | Fields] | AsyncIterable[M | Fields],
        *,
        id_of: Callable[[Any], str] | None = None,
        when_full: WhenFull = "block",
    ) -> int:
        raise NotImplementedError


class TypedComputation(_Sends[M], OrderedComputation[P, R], Generic[M, P, R]): ...  # type: ignore[misc]


class TypedStateComputation(_Sends[M], StateComputation[P, R, S], Generic[M, P, R, S]): ...  # type: ignore[misc]
