"""Collects what computations send, so that it is part of their messages' commits: sent exactly once with their effects, and not at all when
they fail.

A context variable says which step is calling a computation. So this also works in coroutines and pools of threads. A thread that a
computation starts by itself, and a call that goes on after its message has ended, have no outbox: they send at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from celery_partitions.model.errors import MessageError

if TYPE_CHECKING:
    from celery_partitions.model.effects import Alarm, Hop, Push
    from celery_partitions.model.items import Work

#: Limits for the outputs of one commit, unless one message has more. A commit blocks the server for about 3 µs per output. Redis accepts a
#: million words per command, and an output needs about ten.
SHARED_OUTPUTS, SHARED_OUTPUT_BYTES = 10_000, 32_000_000
#: Limits for the outputs of one message, which can't be split over commits. Redis accepts 1 GB per command.
MAX_OUTPUTS, MAX_OUTPUT_BYTES = 50_000, 256_000_000


def no_sender() -> None:
    """The sender of an outbox when no message is being applied."""
    return


class Outbox:
    """What the computations of one step send. `app`: the app whose sends join the commit. `sender`: returns the message being applied; None:
    no message is."""

    __slots__ = ("_sizes", "app", "sender", "sent")

    def __init__(self, app: object, sender: Callable[[], Work | None]) -> None:
        self.app, self.sender = app, sender
        #: What each message sent, in order, by the `id()` of its item.
        self.sent: dict[int, list[Hop | Push | Alarm]] = {}
        #: The bytes of that, and how many alarms are in it, by the `id()` of the item.
        self._sizes: dict[int, tuple[int, int]] = {}

    def cause(self) -> Work:
        """The message being applied."""
        work = self.sender()
        assert work is not None
        return work

    def next_id(self) -> str:
        """The id of the next message that is sent: that of its cause, and a number. A second run makes the same ids."""
        work = self.cause()
        place = id(work)
        number = len(self.sent.get(place, ())) - self._sizes.get(place, (0, 0))[1] + 1
        return f"{work.envelope.headers.id}.{number}"

    def add(self, one: Hop | Push | Alarm, *, is_message: bool = True) -> None:
        """Send a message with the commit of the message being applied. Raises `MessageError` if that has too many or too large outputs for
        one commit."""
        place = id(self.cause())
        sent = self.sent.setdefault(place, [])
        size, alarms = self._sizes.get(place, (0, 0))
        size += len(one.raw)
        self._sizes[place] = size, alarms + (not is_message)
        if len(sent) >= MAX_OUTPUTS or size > MAX_OUTPUT_BYTES:
            raise MessageError(
                f"one message sends more than {MAX_OUTPUTS:,} messages or {MAX_OUTPUT_BYTES:,} bytes, which one commit can't hold. "
                "Send fewer, or send them at once: with context.send_now()"
            )
        sent.append(one)

    def share_of(self, work: Work) -> float:
        """What a message sent, as a share of the limits for one commit."""
        return max(len(self.sent.get(id(work), ())) / SHARED_OUTPUTS, self._sizes.get(id(work), (0, 0))[0] / SHARED_OUTPUT_BYTES)

    def drop(self, work: Work) -> None:
        """Forget what a message sent, because it failed or is applied again."""
        self.sent.pop(id(work), None)
        self._sizes.pop(id(work), None)

    def enter(self) -> None:
        """What this context calls sends here, as long as a message is being applied."""
        _current.set(self)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Around a call of a computation, in its thread or its coroutine's context."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Outbox | None] = ContextVar("partitions_outbox", default=None)


def current_outbox() -> Outbox | None:
    """Where the computation that is running here sends. None outside computations, and in `sent_now`."""
    outbox = _current.get()
    return outbox if outbox is not None and outbox.sender() is not None else None


@contextmanager
def sent_now() -> Iterator[None]:
    """In this block, what a computation sends does not wait for the commit."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)
