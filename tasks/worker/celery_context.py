"""What a Celery worker provides around each task, around computations: `current_task`, `task_prerun` and `task_postrun`, `Task.__call__`.

Libraries hang on these: Celery's own Django support closes broken database connections there, Flask's recipe pushes its context in
`Task.__call__`. Whether anything needs them is checked once per batch. If not, messages cost no more.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, Task, signals, states
from celery._state import pop_current_task, push_current_task
from celery.app.task import Context
from celery.fixups.django import DjangoWorkerFixup

from celery_partitions.model.caller import Call
from celery_partitions.model.computation import Computation
from celery_partitions.model.items import Work
from celery_partitions.model.messages import details_of
from celery_partitions.model.step import call_directly

#: Returns the message that a step is applying, and the number of its try. None: it applies none.
CurrentWork = Callable[[], tuple[Work, int] | None]


class CurrentTask:
    """`celery.current_task` while a batch is stepped: the registered task, with the request of the message being applied.

    It finds the message only when asked. `request.called_directly` is true: what a computation sends is not a child of its message.
    """

    def __init__(self, app: Celery, node: str) -> None:
        self._app, self._node = app, node
        #: What is being applied now.
        self.work: CurrentWork = lambda: None
        self._known: tuple[Work, Context] | None = None

    def follow(self, work: CurrentWork) -> None:
        """Called when a step begins."""
        self.work = work

    @property
    def name(self) -> str | None:
        work = self.work()
        return None if work is None else work[0].computation.name

    @property
    def request(self) -> Context:
        work = self.work()
        if work is None:
            return Context()
        known = self._known
        if known is None or known[0] is not work[0]:
            known = self._known = work[0], request_of(*work, self._node)
        return known[1]

    def __getattr__(self, name: str) -> Any:
        task = self._app.tasks.get(self.name)
        if task is None:
            raise AttributeError(name)
        return getattr(task, name)


def request_of(work: Work, attempt: int, node: str) -> Context:
    """A message as Celery's `task.request`."""
    details = details_of(work.raw)
    return Context(
        id=work.envelope.headers.id,
        task=work.computation.name,
        args=[work.message],
        kwargs={},
        root_id=details.root_id,
        parent_id=details.parent_id,
        retries=attempt - 1,
        hostname=node,
        headers={},
        delivery_info={"exchange": work.envelope.properties.delivery_info.exchange, "redelivered": False},
    )


class CeleryContext:
    """Made once per loop and used by its thread. `CallContext` is the one for other threads."""

    def __init__(self, app: Celery, node: str) -> None:
        self.app, self.node = app, node
        self.current = CurrentTask(app, node)
        #: The app's own `Task.__call__` runs each computation. Celery's own one does nothing that we need.
        self.has_own_call = app.Task.__call__ is not Task.__call__
        self._callables: dict[Computation, Task] = {}
        self._listened: tuple[tuple[Any, ...], tuple[bool, bool]] = ((), (False, False))

    def needs_calls(self) -> bool:
        """Whether each call of a computation must pass through `call`."""
        return self.has_own_call or any(self._listeners())

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Around the step of a batch."""
        _, django = self._listeners()
        push_current_task(self.current)
        try:
            if django:
                self._before_tasks()
            yield
        finally:
            if django:
                self._after_tasks()
            pop_current_task()

    def call(self, call: Call, run: Callable[[Callable[[Call], Any]], Any]) -> Any:
        """Around one call of a computation. `run` makes the call with the function given to it."""
        function = self._call_as_task if self.has_own_call else call_directly
        others, django = self._listeners()
        task = self.app.tasks.get(call.item.computation.name) if others else None
        if task is not None:
            return self._with_signals(task, call, lambda: run(function))
        try:
            return run(function)
        except BaseException:
            if django:  # the connection may be broken, and the batch continues
                self._after_tasks()
                self._before_tasks()
            raise

    def _with_signals(self, task: Task, call: Call, run: Callable[[], Any]) -> Any:
        work = self.current.work()
        request = request_of(call.item, 1 if work is None else work[1], self.node)
        arguments = {"sender": task, "task_id": request.id, "task": task, "args": request.args, "kwargs": {}}
        returned, state = None, states.SUCCESS
        task.request_stack.push(request)
        push_current_task(task)
        try:
            signals.task_prerun.send(**arguments)
            try:
                returned = run()
            except BaseException as error:
                returned, state = error, states.FAILURE
                raise
            finally:
                signals.task_postrun.send(**arguments, retval=returned, state=state)
            return returned
        finally:
            pop_current_task()
            task.request_stack.pop()

    def _call_as_task(self, call: Call) -> Any:
        """Run the computation by a task of the app's class."""
        computation = call.computation
        task = self._callables.get(computation)
        if task is None:

            def run(*arguments: Any) -> Any:
                return call_directly(Call(computation, call.item, list(arguments)))

            own = {"name": computation.name, "run": staticmethod(run), "__module__": computation.function.__module__}
            task = self._callables[computation] = type("computation", (self.app.Task,), own)()
            task.bind(self.app)
        return task(*call.arguments)

    def _listeners(self) -> tuple[bool, bool]:
        """Whether the signals around tasks have receivers, and whether Celery's Django support is one.

        Django's part closes connections that are broken or too old. Once per batch is enough, so that a batch can share a connection.
        """
        receivers = (*signals.task_prerun.receivers, *signals.task_postrun.receivers)
        if self._listened[0] != receivers:
            found = [_is_djangos(receiver) for _, receiver in receivers]
            self._listened = receivers, (False in found, True in found)
        others, django = self._listened[1]
        return others, django and not others

    @property
    def has_django(self) -> bool:
        """Whether Celery's Django support listened when `_listeners` was called last."""
        return self._listened[1][1]

    def _before_tasks(self) -> None:
        signals.task_prerun.send(sender=self.current, task_id=None, task=self.current, args=[], kwargs={})

    def _after_tasks(self) -> None:
        arguments = {"task_id": None, "task": self.current, "args": [], "kwargs": {}, "retval": None, "state": states.SUCCESS}
        signals.task_postrun.send(sender=self.current, **arguments)


def _is_djangos(receiver: Any) -> bool:
    function = receiver() if isinstance(receiver, weakref.ReferenceType) else receiver
    return isinstance(getattr(function, "__self__", None), DjangoWorkerFixup)
