"""The thread that runs calls which wait: an asyncio event loop for coroutines, with pools of threads for blocking functions.

The partition loop hands over runs (`KeyRun`): a key's states and some of its messages in order. The thread calls them one after the other,
each through the pure step, and hands back an outcome for each message. It reads and writes nothing in Redis.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, cast

from celery_partitions.model.caller import Call
from celery_partitions.model.computation import Computation
from celery_partitions.model.in_flight import LINGER_SECONDS, MAX_SHARED
from celery_partitions.model.items import Item, Work, skipped_now
from celery_partitions.model.outcome import Outcome, Slot
from celery_partitions.model.single_step import single_step
from celery_partitions.model.step import StepMachine
from celery_partitions.model.step_rules import StepRules
from celery_partitions.worker.call_context import CallContext
from celery_partitions.worker.key_runs import Ended, KeyRun, is_dropped
from celery_partitions.worker.outside_calls import Hangs, OutsideCalls
from celery_partitions.worker.time_limits import INTERRUPT_SECONDS
from celery_partitions.worker.tokens import SharedAsking, Tokens
from celery_partitions.worker.tracing import TracedSteps

if TYPE_CHECKING:
    from celery_partitions.worker.lease_keeper import Event
    from celery_partitions.worker.owned import OwnedPartition

logger = logging.getLogger("celery.worker.partitions")

#: How long the calls of a partition share their rules, with the server's time. Making them takes as long as a tenth of a short call.
RULES_SECONDS = 0.002

#: What a call returned, or the exception that it raised.
_Result = tuple[Any, BaseException | None]


class LifespanFailed(Exception):
    """The lifespan given to `install()` raised, or yielded no dict."""


class _StageCalls:
    """The calls of one computation. Only the call thread uses it."""

    def __init__(self, concurrency: int) -> None:
        #: How many more calls may run.
        self.free = concurrency
        #: This many ended calls are worth a turn of the partition loop.
        self.many = min(MAX_SHARED, max(1, concurrency // 2))
        #: Runs that were submitted and have not begun.
        self.waiting: deque[tuple[KeyRun, Ended]] = deque()


class CallThread(threading.Thread):
    """Runs the calls of all partitions of a worker. Made once per loop.

    `rules`: the step's rules for a partition. `hangs`: called in the watchdog's thread for a call that ignored its time limit; it does not
    return. `wake`: wakes the partition loop.
    """

    def __init__(
        self,
        rules: Callable[[OwnedPartition], StepRules],
        hangs: Hangs,
        wake: Callable[[], None],
        concurrency: Callable[[Computation], int],
        context: CallContext,
        tokens: Tokens,
        revoked: Container[str] = (),
        lifespan: Callable[[], Any] | None = None,
        traced: TracedSteps | None = None,
        make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        make_event: Callable[[], Event] = threading.Event,
    ) -> None:
        super().__init__(name="partition-calls", daemon=True)
        self.rules, self.wake, self.concurrency, self.context = rules, wake, concurrency, context
        self.revoked, self.lifespan, self.traced = revoked, lifespan, traced
        #: What the lifespan yielded.
        self.resources: Mapping[str, Any] = {}
        self._loop = make_loop()
        self.calls = OutsideCalls(self._loop, hangs, concurrency, context, self._is_current)
        self._asking = SharedAsking(tokens, self._loop)
        self._ready = make_event()
        self._error: BaseException | None = None
        self._tasks: dict[tuple[str, str], tuple[KeyRun, asyncio.Task[None]]] = {}
        self._stages: dict[Computation, _StageCalls] = {}
        self._stopping = asyncio.Event()
        self._timers: dict[int, asyncio.TimerHandle] = {}

    # Called by the partition loop and the boot step.

    def begin(self) -> None:
        """Start the thread and enter the lifespan. Raises `LifespanFailed`, whose cause is what the lifespan raised."""
        self.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        threading.Thread(target=self.calls.watch, args=(self.is_alive,), name="partition-calls-watchdog", daemon=True).start()

    def submit(self, runs: Iterable[KeyRun], ended: Ended) -> None:
        """Start runs. Their outcomes come to `ended`. A key's run starts when the calls of an earlier one for it are over."""
        self._loop.call_soon_threadsafe(self._start, list(runs), ended)

    def cancel(self, runs: Iterable[KeyRun]) -> None:
        """Cancel runs. Their outcomes must not be used any more. A call in a thread goes on, but its key does not start again before."""
        chosen = list(runs)
        for run in chosen:
            run.cancelled = True
        if chosen and self.is_alive():
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self._cancel, chosen)

    def end(self, seconds: float = 5.0) -> None:
        """Cancel everything, leave the lifespan, and end the thread. Waits at most `seconds`."""
        if self.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
            self.join(seconds)

    # In the thread.

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            with self.context.in_this_thread():
                self._loop.run_until_complete(self._live())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _live(self) -> None:
        async with AsyncExitStack() as stack:
            if self.lifespan is not None:
                try:
                    self.resources = await self._enter(stack, self.lifespan)
                except Exception as error:
                    raise LifespanFailed from error
            self._ready.set()
            await self._stopping.wait()
            tasks = [task for _, task in self._tasks.values()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=INTERRUPT_SECONDS)

    async def _enter(self, stack: AsyncExitStack, lifespan: Callable[[], Any]) -> Mapping[str, Any]:
        """Enter the lifespan. Returns what it yields."""
        context = lifespan()
        entered = await stack.enter_async_context(context) if hasattr(context, "__aenter__") else stack.enter_context(context)
        if entered is not None and not isinstance(entered, Mapping):
            raise TypeError(f"the lifespan must yield a dict of resources, or nothing, not {type(entered).__name__}")
        return cast(Mapping[str, Any], entered or {})

    def _start(self, runs: list[KeyRun], ended: Ended) -> None:
        for run in runs:
            if run.cancelled:
                continue
            ended.running += 1
            stage_calls = self._stages.get(run.stage)
            if stage_calls is None:
                stage_calls = self._stages[run.stage] = _StageCalls(self.concurrency(run.stage))
            if stage_calls.free <= 0:
                stage_calls.waiting.append((run, ended))
                continue
            stage_calls.free -= 1
            self._begin(run, ended, stage_calls)

    def _begin(self, run: KeyRun, ended: Ended, stage_calls: _StageCalls) -> None:
        place = run.owned.partition, run.key
        before = self._tasks.get(place)
        run.has_task = True
        task = self._loop.create_task(self._run_key(run, ended, stage_calls, None if before is None else before[1]))
        self._tasks[place] = run, task

    def _begin_next(self, stage_calls: _StageCalls) -> None:
        """A call has ended: begin the next one."""
        stage_calls.free += 1
        while stage_calls.waiting and stage_calls.free > 0 and not self._stopping.is_set():
            run, ended = stage_calls.waiting.popleft()
            if run.cancelled:
                ended.running -= 1
                continue
            stage_calls.free -= 1
            self._begin(run, ended, stage_calls)
            ended.last = run.owned.clock()

    def _cancel(self, runs: list[KeyRun]) -> None:
        for run in runs:
            if not run.has_task:
                run.has_ended = True
                continue
            run_now, task = self._tasks.get((run.owned.partition, run.key), (None, None))
            # Once: a thread that goes on is waited for. And a run that waits for an earlier one must wait on, so that a later one waits for both.
            if task is not None and run_now is run and run.is_calling and not task.cancelling():
                task.cancel()

    def _rules_now(self, owned: OwnedPartition, ended: Ended) -> StepRules:
        """The rules for a call that begins now. Calls that begin together share them."""
        now = self._loop.time()
        if ended.rules is None or now >= ended.rules_until:
            self.context.check()
            ended.rules, ended.rules_until = self.rules(owned), now + RULES_SECONDS
        return ended.rules

    async def _run_key(self, run: KeyRun, ended: Ended, stage_calls: _StageCalls, before: asyncio.Task[None] | None) -> None:
        calls, is_over = [run.items[:]] if run.together else [[item] for item in run.items], False
        try:
            if before is not None:
                await asyncio.wait((before,))
            run.is_calling = True
            for number, items in enumerate(calls):
                if run.cancelled:
                    return
                if run.stopping:
                    is_over = True
                    ended.running -= 1
                    ended.add(run, None, is_over)
                    self._announce(ended, stage_calls)
                    return
                rules = self._rules_now(run.owned, ended)
                items = [(skipped_now(item, rules.now, self.revoked) or item) if isinstance(item, Work) else item for item in items]
                outcome = await self._call(run, items, rules, number == 0)
                if is_dropped(run):
                    return
                is_over = number == len(calls) - 1 or outcome.taken == 0 or outcome.pause or bool(outcome.waiting or outcome.parked)
                if is_over:
                    ended.running -= 1
                ended.add(run, outcome, is_over)
                self._announce(ended, stage_calls)
                if is_over:
                    return
        except asyncio.CancelledError:
            run.cancelled = True
        except Exception:
            logger.exception("partitions: internal error in a call of key %r; its message runs again", run.key)
            ended.add(run, None, True)
        finally:
            if not is_over:
                ended.running -= 1
                self._announce(ended, stage_calls)
            place = run.owned.partition, run.key
            current = self._tasks.get(place)
            if current is not None and current[0] is run:
                del self._tasks[place]
            run.has_ended = True
            if run.cancelled:
                self.wake()  # its key may have waited for it
            self._begin_next(stage_calls)

    def _call(self, run: KeyRun, items: Sequence[Item], rules: StepRules, is_first: bool) -> Awaitable[Outcome]:
        """Process one message, or those of one call of a batch computation. Its states are pickled, so that a failure of the next one rolls back to
        here without calling this one again."""
        item = items[0]
        attempt, failed, waited_out = (run.attempt, run.failed, run.waited_out) if is_first else (1, None, False)
        waited = is_first and run.waited
        self.context.enter(item, attempt)
        outcome = self._outcome(run, items, rules, attempt, failed, waited_out, waited)
        return outcome if self.traced is None else self._in_span(self.traced, run.owned.partition, item, attempt, outcome)

    @staticmethod
    async def _in_span(traced: TracedSteps, partition: str, item: Item, attempt: int, made: Awaitable[Outcome]) -> Outcome:
        with traced.message(partition, item, attempt) as about:
            outcome = await made
        traced.ended(partition, about, outcome)
        return outcome

    async def _outcome(
        self, run: KeyRun, items: Sequence[Item], rules: StepRules, attempt: int, failed: str | None, waited_out: bool, waited: bool
    ) -> Outcome:
        single = None if failed is not None else single_step(items[0], run.slots, rules, attempt)
        result: _Result | None = None
        outcome = None
        if single is not None:
            single.outbox.enter()
            try:
                result = await self._result_of(run, single.call._replace(waited=waited) if waited else single.call)
            finally:
                single.end()
            if result[1] is None:
                outcome = single.outcome()
        if outcome is None:
            machine = StepMachine(
                items, run.slots, rules, mailbox_of=run.place, attempt=attempt, failed=failed, waited_out=waited_out, waited=waited, halving=run.halving
            )
            while machine.call is not None:
                if result is None:
                    machine.outbox.enter()
                    result = await self._result_of(run, machine.call)
                value, error = result
                result = None
                if error is None:
                    machine.returned(value)
                else:
                    machine.raised(error)
            outcome = machine.outcome
        for name, states in outcome.states.items():
            for key, stored in states.items():
                slot = run.slots[name][key]
                if type(slot) is Slot:
                    slot.stored = stored or None
        return outcome

    async def _result_of(self, run: KeyRun, call: Call) -> _Result:
        """What a call returned, or raised. Raises `CancelledError` if the run was cancelled."""
        try:
            if call.computation.rate_limit is not None:
                await self._asking.take(run.owned.partition, call)
            return await self.calls.make(run.owned.lease, call), None
        except asyncio.CancelledError as error:
            if run.cancelled or self._stopping.is_set():
                run.cancelled = True
                raise
            return None, error  # the computation itself was cancelled by something that it awaits
        except BaseException as error:
            return None, error

    def _announce(self, ended: Ended, stage_calls: _StageCalls) -> None:
        """Wake the partition loop when there is something to do: soon, so that calls that end together share a commit."""
        if ended.running <= 0 or len(ended) >= stage_calls.many:
            if not ended.is_announced:
                ended.is_announced = True
                self.wake()
        elif id(ended) not in self._timers:
            self._timers[id(ended)] = self._loop.call_later(LINGER_SECONDS, self._wake_for, id(ended))

    def _wake_for(self, place: int) -> None:
        self._timers.pop(place, None)
        self.wake()

    # In the watchdog's thread.

    def _is_current(self, partition: str, key: str) -> bool:
        """Whether the event loop is executing the run of a key now."""
        with suppress(RuntimeError):
            current, known = asyncio.current_task(self._loop), self._tasks.get((partition, key))
            return current is not None and known is not None and known[1] is current
        return False
