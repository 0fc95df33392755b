"""What a Celery worker provides around each task, around the calls that run outside the loop's thread.

Many of them are interleaved in one thread, so what is current is in a context variable, which each call's coroutine and thread has for
itself. Celery's own stacks belong to threads: they are used only while signals are sent, and in the threads of pools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery import Celery, Task, signals, states
from celery._state import pop_current_task, push_current_task
from celery.app.task import Context

from celery_partitions.model.caller import Call
from celery_partitions.model.items import Item, Work
from celery_partitions.worker.celery_context import CeleryContext, request_of

#: The message that is being applied in this context, and the number of its try.
_current: ContextVar[tuple[Work, int] | None] = ContextVar("partitions_current_work", default=None)

#: How often the connections that coroutines of a Django project use are checked, besides after a call that raises.
DATABASE_CHECK_SECONDS = 1.0


class CallContext(CeleryContext):
    """Made once per call thread. Its methods run there and in the threads of pools."""

    def __init__(self, app: Celery, node: str, clock: Callable[[], float]) -> None:
        super().__init__(app, node)
        self.clock = clock
        self.current.follow(_current.get)
        #: Whether calls must pass through `awaited`, `around` and `around_in_thread`, when it was last checked.
        self.is_needed = self.needs_calls()
        #: By the monotonic clock.
        self._next_database_check = 0.0
        self._database_check: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Check whether anybody listens. Costs less than a microsecond, so it is not done for each call."""
        self.is_needed = self.needs_calls()

    @staticmethod
    def enter(item: Item, attempt: int) -> None:
        """A message begins in this context."""
        _current.set((item, attempt) if isinstance(item, Work) else None)

    @contextmanager
    def in_this_thread(self) -> Iterator[None]:
        """Around everything that has a `current_task` in this thread."""
        push_current_task(self.current)
        try:
            yield
        finally:
            pop_current_task()

    def around(self, call: Call) -> Any:
        """A plain call, in the event loop."""
        return self.call(call, lambda function: function(call))

    def around_in_thread(self, call: Call) -> Any:
        """A blocking call, in its thread. Database connections belong to the thread, so they are checked around each call."""
        _, django = self._listeners()
        if not django:
            return self.around(call)
        self._before_tasks()
        try:
            return self.around(call)
        finally:
            self._after_tasks()

    async def awaited(self, call: Call, made: Awaitable[Any]) -> Any:
        """A coroutine, between Celery's signals. The app's own `Task.__call__` does not run: it could not stay open while others run."""
        others, _ = self._listeners()
        if self.has_django:
            made = self._with_database(made)
        task = self.app.tasks.get(call.item.computation.name) if others else None
        if task is None:
            return await made
        request = self._request(call)
        arguments = {"sender": task, "task_id": request.id, "task": task, "args": request.args, "kwargs": {}}
        with _pushed(task, request):
            signals.task_prerun.send(**arguments)
        returned, state = None, states.SUCCESS
        try:
            returned = await made
        except BaseException as error:
            returned, state = error, states.FAILURE
            raise
        finally:
            with _pushed(task, request):
                signals.task_postrun.send(**arguments, retval=returned, state=state)
        return returned

    async def _with_database(self, made: Awaitable[Any]) -> Any:
        """A coroutine of a Django project. All queries of coroutines run in one thread of asgiref, where no task's end is signalled."""
        failed = True
        try:
            returned = await made
            failed = False
        finally:
            if failed or self.clock() >= self._next_database_check:
                self._next_database_check = self.clock() + DATABASE_CHECK_SECONDS
                self._database_check = asyncio.get_running_loop().create_task(_close_old_connections())
        return returned

    def _request(self, call: Call) -> Context:
        work = self.current.work()
        return request_of(call.item, 1 if work is None else work[1], self.node)


async def _close_old_connections() -> None:
    """Close Django's connections that are broken or too old, in the thread of asgiref."""
    from asgiref.sync import sync_to_async  # noqa: PLC0415 - only Django projects have it
    from django.db import close_old_connections  # noqa: PLC0415

    await sync_to_async(close_old_connections)()


@contextmanager
def _pushed(task: Task, request: Context) -> Iterator[None]:
    """Nothing else may run in this thread meanwhile."""
    task.request_stack.push(request)
    push_current_task(task)
    try:
        yield
    finally:
        pop_current_task()
        task.request_stack.pop()
