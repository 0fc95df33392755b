"""`send_many`: sends the messages that `delay` would send, at a hundred thousand a second.

It takes messages from the iterable in chunks, and pushes the messages of each partition with one LPUSH. So the order per key is the
order of the iterable, and memory holds one chunk. If the iterable raises, or on Ctrl-C, the messages already taken are pushed or reported.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TextIO

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import PartitionError, QueueFull, describe
from celery_partitions.producer.message_maker import MessageMaker, own_id, random_id, random_ids
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.queue_limit import Backlog
from celery_partitions.store.programs import AsyncClients, Program, run

#: Messages per round trip: enough to hide its latency, and few enough to list exactly what is unknown when it fails.
CHUNK_MESSAGES = 1000
#: Bytes per round trip, for large messages.
CHUNK_BYTES = 8_000_000
#: For slow iterables (a live stream): a message is sent immediately if the last round trip ended this long ago. A message that came
#: sooner is sent with the next one, because nothing else runs while the iterable is waited for.
CHUNK_SECONDS = 0.05


WhenFull = Literal["block", "raise"]


class SendInterrupted(PartitionError):
    """`send_many` could not continue. The messages taken from the iterable are, in order: `sent` that are in their queues, then
    `unknown` and `refused`. The iterable continues after those.

    Sending `unknown` again may duplicate messages, unless the computation has `deduplicate=`. Not sending them may lose messages.
    """

    def __init__(self, cause: BaseException | str, sent: int, unknown: Sequence[Any], refused: Sequence[Any]) -> None:
        self._cause = str(cause) or type(cause).__name__
        known = f"{sent} {'message is in its queue' if sent == 1 else 'messages are in their queues'}"
        rest = f"{len(unknown)} may be (error.unknown), {len(refused)} are not (error.refused); later messages were not taken from the iterable"
        nothing = "no message was sent, and none was taken from the iterable"
        super().__init__(f"{self._cause}: {f'{known}, {rest}' if sent or unknown or refused else nothing}")
        #: The number of messages that are known to be in their queues.
        self.sent = sent
        #: Messages that were being pushed when the connection broke.
        self.unknown = list(unknown)
        #: Messages that the server refused, or that were not pushed.
        self.refused = list(refused)

    def __reduce__(self) -> tuple[type[SendInterrupted], tuple[str, int, list[Any], list[Any]]]:
        return type(self), (self._cause, self.sent, self.unknown, self.refused)


def send_many(
    installation: Installation,
    computation: Computation,
    messages: Iterable[Any],
    progress: bool | None = None,
    *,
    id_of: Callable[[Any], str] | None = None,
    when_full: WhenFull = "block",
) -> int:
    """Send every message of an iterable, which may be endless. Returns the number of messages.

    `progress`: whether to show a progress bar on standard error; None: if that is a terminal. `id_of`: returns a message's own unique
    id, for `deduplicate=` and for the result of a computation with `reply=True`; None: random ids, and no results. `when_full`: if a
    queue is at its limit (`PARTITIONS_QUEUE_MAX_LENGTH`), "block" waits for room, and "raise" raises `SendInterrupted` from `QueueFull`.
    Producers that send at the same time may together exceed the limit by one chunk each.

    Raises `MessageError` for an invalid message, after sending those before it, and `SendInterrupted` if the connection breaks. An
    exception of the iterable, or Ctrl-C, is raised after the messages taken before it are sent. If that fails, its `__cause__` is a
    `SendInterrupted`.

    A message that comes within 0.05 s of the last round trip is sent together with the next one. If the iterable then waits, so does
    the message. Send messages that must not wait with `delay`, or call `send_many` for each burst.
    """
    try:
        installation.group.check()
    except (redis.RedisError, OSError) as error:
        raise SendInterrupted(error, 0, [], []) from error
    sender = _Sender(installation, computation, id_of, when_full)
    if progress is False or (progress is None and not _is_terminal(sys.stderr)):
        for _ in sender.chunks(messages):
            pass
        return sender.sent
    from celery_partitions.producer.progress import progress_bar  # noqa: PLC0415 - loads rich, which a producer does not need

    with progress_bar() as bar:
        total = len(messages) if isinstance(messages, Sized) else None
        row = bar.add_task(computation.name, total=total)
        for count in sender.chunks(messages):
            bar.advance(row, count)
    return sender.sent


async def send_many_async(
    installation: Installation,
    computation: Computation,
    messages: Iterable[Any] | AsyncIterable[Any],
    *,
    id_of: Callable[[Any], str] | None = None,
    when_full: WhenFull = "block",
) -> int:
    """`send_many` in the running event loop, without a progress bar. The iterable may be async.

    If its task is cancelled, the messages already taken are pushed first.
    """
    group = installation.group
    try:
        await group.check_async()
    except (redis.RedisError, OSError) as error:
        raise SendInterrupted(error, 0, [], []) from error
    return await _Sender(installation, computation, id_of, when_full).send_async(group.async_clients, messages)


@dataclass(slots=True)
class _Chunk:
    """The messages of one round trip. Each list grows by one complete entry at a time, so that a signal between two steps does no harm."""

    #: Messages from the iterable. The last one may not be in `made` yet.
    messages: list[Any] = field(default_factory=list)
    #: Partition and raw message of each.
    made: list[tuple[int, bytes]] = field(default_factory=list)
    #: Total size of the raw messages, in bytes.
    written: int = 0
    #: Seconds since the epoch.
    began: float = field(default_factory=time.time)
    #: "sent": the server may have some of them. "settled": it is known which ones it has, and they are counted or reported.
    state: Literal["taken", "sent", "settled"] = "taken"


class _Sender:
    def __init__(
        self,
        installation: Installation,
        computation: Computation,
        id_of: Callable[[Any], str] | None,
        when_full: WhenFull,
    ) -> None:
        limit = installation.settings.queue_max_length
        self.group = installation.group
        self.backlog = Backlog(installation.group.client, installation.group.names, limit)
        self.when_full = when_full
        #: At most the queue's limit, because there would never be room for more.
        self.chunk_messages = min(CHUNK_MESSAGES, limit or CHUNK_MESSAGES)
        self.id_of = id_of
        self.client = installation.group.client
        self.maker = MessageMaker(installation, computation, ids_are_known=id_of is not None)
        self.queues = self.maker.queues
        self.sent = 0

    def chunks(self, messages: Iterable[Any]) -> Iterator[int]:
        """Send chunk after chunk. Yields the number of messages of each chunk, after it was sent."""
        rest = iter(messages)
        more = True
        while more:
            chunk = _Chunk()
            try:
                self.group.check()
                more = self.fill(chunk, rest)
                run(self.client, self.push(chunk, self.when_full))
            except BaseException as error:  # from the iterable, from an invalid message, or from a signal handler
                run(self.client, self.settle(chunk, error))
                raise
            yield len(chunk.messages)

    async def send_async(self, clients: AsyncClients, messages: Iterable[Any] | AsyncIterable[Any]) -> int:
        """The same in the running event loop. Returns the number of messages."""
        rest = messages.__aiter__() if isinstance(messages, AsyncIterable) else iter(messages)
        more = True
        while more:
            chunk = _Chunk()
            try:
                await self.group.check_async()
                more = await self.fill_async(chunk, rest) if isinstance(rest, AsyncIterator) else self.fill(chunk, rest)
                await clients.run(self.push(chunk, self.when_full))
            except BaseException as error:  # also if this task is cancelled
                await clients.run(self.settle(chunk, error))
                raise
        return self.sent

    def fill(self, chunk: _Chunk, rest: Iterator[Any]) -> bool:
        """Take messages from the iterable until the chunk is full. Returns whether there may be more."""
        digits = random_ids(CHUNK_MESSAGES)
        return any(self.add(chunk, message, digits) for message in rest)

    async def fill_async(self, chunk: _Chunk, rest: AsyncIterator[Any]) -> bool:
        digits = random_ids(CHUNK_MESSAGES)
        async for message in rest:
            if self.add(chunk, message, digits):
                return True
        return False

    def add(self, chunk: _Chunk, message: Any, digits: str) -> bool:
        """Add a message to the chunk. Returns whether the chunk is full. `digits`: of its random ids."""
        number = len(chunk.messages)
        chunk.messages.append(message)  # first, because a signal may be handled after any call
        now = time.time()
        name = random_id(digits, number) if self.id_of is None else own_id(self.id_of(message), "the id that id_of returns")
        made = self.maker.make(message, name, b"%.6f" % now)
        chunk.made.append(made)
        chunk.written += len(made[1])
        return number + 1 == self.chunk_messages or chunk.written > CHUNK_BYTES or now - chunk.began > CHUNK_SECONDS

    def settle(self, chunk: _Chunk, error: BaseException) -> Program[None]:
        """After an error that ends the sending, push the messages already taken, or report them. `SendInterrupted` reports them: it
        replaces an ordinary exception, and is the cause of one that must not be swallowed (KeyboardInterrupt, SystemExit)."""
        if isinstance(error, SendInterrupted) and chunk.state == "settled":
            return  # it reports everything
        is_signal = not isinstance(error, Exception)
        sendable, not_made = chunk.messages[: len(chunk.made)], chunk.messages[len(chunk.made) :]
        if chunk.state == "sent":
            raise error from SendInterrupted(error, self.sent, sendable, not_made)
        if chunk.state == "taken":
            if is_signal:  # it may have come between the length check's request and reply; the push would read that reply as its own
                yield lambda client: client.connection_pool.disconnect(inuse_connections=False)
            try:
                yield from self.push(chunk, "raise" if is_signal else self.when_full)  # after Ctrl-C, do not wait for room
            except SendInterrupted as interrupted:
                if is_signal:
                    interrupted.refused += not_made
                    raise error from interrupted
                interrupted.add_note(f"This happened after another error: {describe(error)}")
                raise
            except BaseException as delayed:
                yield from self.settle(chunk, delayed)
                raise
        error.add_note(f"send_many had sent {self.sent:,} {'message' if self.sent == 1 else 'messages'} before this error")
        if is_signal and not_made:
            raise error from SendInterrupted(error, self.sent, [], not_made)

    def push(self, chunk: _Chunk, when_full: WhenFull) -> Program[None]:
        """Push the chunk: one LPUSH per partition, all in one round trip."""
        pushes: dict[int, list[bytes]] = {}
        for number, raw in chunk.made:
            pushes.setdefault(number, []).append(raw)
        if not pushes:
            return
        yield from self.make_sure_of_room({str(number): len(raws) for number, raws in pushes.items()}, chunk, when_full)
        chunk.state = "sent"
        try:
            answers = yield partial(self._push, pushes)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            chunk.state = "settled"
            raise SendInterrupted(error, self.sent, chunk.messages[: len(chunk.made)], []) from error
        causes = {number: one for number, one in zip(pushes, answers, strict=True) if isinstance(one, Exception)}
        sent = sum(len(raws) for number, raws in pushes.items() if number not in causes)
        self.sent, chunk.state = self.sent + sent, "settled"
        if causes:
            pairs = zip(chunk.messages, chunk.made, strict=False)
            refused = [message for message, (number, _) in pairs if number in causes]
            cause = list(causes.values())[-1]
            raise SendInterrupted(cause, self.sent, [], refused) from cause

    def _push(self, pushes: dict[int, list[bytes]], client: Any) -> Any:
        pipe = client.pipeline(transaction=False)
        for number, raws in pushes.items():
            pipe.lpush(self.queues[number], *raws)
        return pipe.execute(raise_on_error=False)

    def make_sure_of_room(self, wanted: dict[str, int], chunk: _Chunk, when_full: WhenFull) -> Program[None]:
        try:
            if when_full == "block":
                yield from self.backlog.waiting(wanted)
            else:
                yield from self.backlog.refusal(wanted)
        except (QueueFull, redis.RedisError, OSError) as error:
            chunk.state = "settled"
            raise SendInterrupted(error, self.sent, [], chunk.messages[: len(chunk.made)]) from error


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal. `stream` is None if the process has no standard error."""
    return stream is not None and stream.isatty()
