"""The pure step: takes messages and states, and decides new states, outputs and failures. `batch_step` does the work.

Law 3: messages of one key are applied in queue order, one at a time, each to the state that the previous one left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from celery_partitions.model.batch_step import BatchStep
from celery_partitions.model.caller import Call
from celery_partitions.model.executors import call_and_wait
from celery_partitions.model.halving import NOT_HALVED, Halving
from celery_partitions.model.items import Item
from celery_partitions.model.outcome import Outcome, States
from celery_partitions.model.step_rules import StepRules


class StepMachine:
    """A step without I/O. While `call` is not None, call it, and pass the result to `returned` or the exception to `raised`. Then read
    `outcome`. Make each call in `with outbox.active()`, so that what the computation sends is part of the outcome.

    `parked`: parked keys, whose messages go to their mailboxes. `mailbox_lengths`: the number of messages waiting there. `mailbox_of`: the
    items come from this parked key's mailbox, and the first is at try number `attempt`; then a failure to be retried ends the step.
    `own_lines`: those of `parked` that are own lines. `line`: the items come from this task's line. `waited_out`: messages of the mailbox or
    line have waited long enough, and become dead letters if they still can't be processed. `waited`: the first message comes at a time that
    its rate limit has promised.
    `failed`: the only item exceeded its time limit before, with this error. It counts as failed and is not called.
    `halving`: of the mailbox's first messages. `gathers`: the messages of batch computations wait for others.
    The step changes the state objects in place. After a refused commit, the caller must drop them.
    """

    def __init__(
        self,
        items: Sequence[Item],
        states: States,
        rules: StepRules,
        *,
        parked: Container[str] = (),
        mailbox_lengths: Mapping[str, int] = MappingProxyType({}),
        own_lines: Collection[str] = (),
        mailbox_of: str | None = None,
        attempt: int = 1,
        line: str | None = None,
        waited_out: bool = False,
        waited: bool = False,
        failed: str | None = None,
        halving: Halving = NOT_HALVED,
        gathers: bool = True,
    ) -> None:
        doing = BatchStep(
            items, states, rules, parked, mailbox_lengths, own_lines, mailbox_of, attempt, line, waited_out, waited, halving, gathers
        )
        if rules.begins is not None:
            rules.begins(doing.current)
        self.outbox, self._let_go = doing.outbox, doing.let_go
        self._calls = doing.run() if failed is None else doing.fail_first(failed)
        self._outcome: Outcome | None = None
        #: The next call to make. None: the step is done.
        self.call: Call | None = None
        self._go_on(partial(next, self._calls))

    def returned(self, value: Any) -> None:
        """The computation of `call` returned this."""
        self._go_on(partial(self._calls.send, value))

    def raised(self, error: BaseException) -> None:
        """The computation of `call` raised this."""
        self._go_on(partial(self._calls.throw, error))

    @property
    def outcome(self) -> Outcome:
        """What the step decided. Raises `RuntimeError` while there is a call to make."""
        if self._outcome is None:
            raise RuntimeError(f"the step is not finished; make this call first: {self.call}")
        return self._outcome

    def _go_on(self, to_next: Callable[[], Call]) -> None:
        try:
            with self.outbox.active():  # the machine may call computations directly
                self.call = to_next()
        except StopIteration as end:
            self.call, self._outcome = None, end.value
            self._let_go()


def call_directly(call: Call) -> Any:
    """Call the computation in this thread, without a time limit. A coroutine runs to its end, before anything else."""
    if call.computation.executor == "async":
        return call_and_wait(call.computation.function, call.arguments)
    return call.computation.function(*call.arguments)


def step(
    items: Sequence[Item], states: States, rules: StepRules, *, call: Callable[[Call], Any] = call_directly, **how: Any
) -> Outcome:
    """Run a step, making its calls one after the other with `call`. Returns its outcome. `how`: as for `StepMachine`."""
    machine = StepMachine(items, states, rules, **how)
    while machine.call is not None:
        try:
            with machine.outbox.active():
                value = call(machine.call)
        except BaseException as error:  # anything that a user's function raises is a failure of its message
            machine.raised(error)
        else:
            machine.returned(value)
    return machine.outcome
