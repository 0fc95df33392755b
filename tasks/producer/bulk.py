"""`send_many`: the messages that `delay` would send, at a hundred thousand a second.

Messages are taken from the iterable in chunks; a chunk's messages for one partition go in one LPUSH, so the order per
key is the order of the iterable. Memory is a chunk's, however long the iterable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Literal

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tasks.model.computation import Computation
from tasks.model.errors import MessageError, PartitionError, QueueFull
from tasks.model.writing import in_quotes
from tasks.producer.backlog import Backlog
from tasks.producer.installation import Installation
from tasks.producer.making import maker_for, random_id, random_ids

#: Messages of one round trip: enough to hide it, few enough to say exactly what is unknown when it breaks.
CHUNK_MESSAGES = 1000
#: Bytes of one round trip, where messages are large.
CHUNK_BYTES = 8_000_000
#: A slow iterable (a live stream): a message goes out at once when the one before it went out so long ago.
CHUNK_SECONDS = 0.05


WhenFull = Literal["block", "raise"]


class SendInterrupted(PartitionError):
    """`send_many` could not go on. The messages of the iterable are, in order: `sent` known to be in their queues, then
    `unknown` and `refused`; the iterable stands behind those.

    Sending `unknown` again may double them; leaving them may lose them.
    """

    def __init__(self, cause: BaseException | str, sent: int, unknown: Sequence[Any], refused: Sequence[Any]) -> None:
        self._cause = str(cause) or type(cause).__name__
        super().__init__(
            f"{self._cause}: {sent} messages are known to be in, {len(unknown)} may be (error.unknown), "
            f"{len(refused)} are known not to be (error.refused); later ones were not taken from the iterable"
        )
        #: How many messages are known to be in their queues.
        self.sent = sent
        #: Messages whose push was under way when the connection broke.
        self.unknown = list(unknown)
        #: Messages that the server refused, or that were not sent.
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
    """Send every message of an iterable, which may be endless; returns how many.

    `progress`: a progress bar on standard error; None: when that is a terminal. `id_of`: the id of each message, unique to it,
    by which a second sending is found (`deduplicate=`), and the result of a computation with `reply=True`; None: a random one, and
    no results. Raises `MessageError` for a message
    that does not fit (those before it are in), and `SendInterrupted` when the connection breaks.

    `when_full`: what is done when a queue has no room (`QUEUE_MAX_LENGTH`): "block" waits for it, "raise" raises `SendInterrupted`
    from `QueueFull`. Producers that send at the same time may together go past the limit by what each had under way.
    """
    try:
        installation.group.check()
    except (redis.RedisError, OSError) as error:
        raise SendInterrupted(error, 0, [], []) from error
    sender = _Sender(installation, computation, id_of, when_full)
    bar = _progress_bar(progress)
    if bar is None:
        for _ in sender.chunks(messages):
            pass
        return sender.sent
    with bar:
        total = len(messages) if isinstance(messages, Sized) else None
        row = bar.add_task(computation.name, total=total)
        for count in sender.chunks(messages):
            bar.advance(row, count)
    return sender.sent


@dataclass(slots=True)
class _Chunk:
    """Messages of one round trip."""

    #: Raw messages for each partition.
    pushes: list[list[bytes]]
    messages: list[Any] = field(default_factory=list)
    #: The partition of each message.
    partitions: list[int] = field(default_factory=list)
    #: Bytes of all raw messages.
    written: int = 0


class _Sender:
    def __init__(
        self,
        installation: Installation,
        computation: Computation,
        id_of: Callable[[Any], str] | None,
        when_full: WhenFull,
    ) -> None:
        limit = installation.settings.queue_max_length
        self.backlog = Backlog(installation.group.client, installation.group.names, limit)
        self.when_full = when_full
        #: No more than a queue may hold: for more there would never be room.
        self.chunk_messages = min(CHUNK_MESSAGES, limit or CHUNK_MESSAGES)
        self.id_of = id_of
        self.client = installation.group.client
        self.maker = maker_for(installation, computation, ids_are_known=id_of is not None)
        self.queues = self.maker.queues
        self.sent = 0

    def chunks(self, messages: Iterable[Any]) -> Iterator[int]:
        """Send chunk after chunk; yields each one's number of messages when it is in."""
        rest = iter(messages)
        more = True
        while more:
            chunk = _Chunk([[] for _ in self.queues])
            failure: Exception | None = None
            try:
                more = self.fill(chunk, rest)
            except Exception as error:  # the iterable's own, or of a message that does not fit
                failure = error
            self.push(chunk)
            if failure is not None:
                failure.add_note(f"{self.sent:,} messages before it were sent")
                raise failure
            yield len(chunk.messages)

    def fill(self, chunk: _Chunk, rest: Iterator[Any]) -> bool:
        """Take messages from the iterable until the chunk is full; whether there may be more."""
        make, id_of, digits = self.maker.make, self.id_of, random_ids(CHUNK_MESSAGES)
        began = time.time()
        for number, message in enumerate(rest):
            now = time.time()
            name = random_id(digits, number) if id_of is None else _own_id(id_of(message))
            partition, raw = make(message, name, b"%.6f" % now)
            chunk.pushes[partition].append(raw)
            chunk.partitions.append(partition)
            chunk.messages.append(message)
            chunk.written += len(raw)
            if number + 1 == self.chunk_messages or chunk.written > CHUNK_BYTES or now - began > CHUNK_SECONDS:
                return True
        return False

    def push(self, chunk: _Chunk) -> None:
        """One LPUSH a partition, all in one round trip."""
        pushes = chunk.pushes
        used = [number for number, raws in enumerate(pushes) if raws]
        if not used:
            return
        self.make_sure_of_room({str(number): len(pushes[number]) for number in used}, chunk)
        try:
            with self.client.pipeline(transaction=False) as pipe:
                for number in used:
                    pipe.lpush(self.queues[number], *pushes[number])
                answers = pipe.execute(raise_on_error=False)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise SendInterrupted(error, self.sent, chunk.messages, []) from error
        refusing: set[int] = set()
        cause: Exception | None = None
        for number, answer in zip(used, answers, strict=True):
            if isinstance(answer, Exception):
                cause = answer
                refusing.add(number)
            else:
                self.sent += len(pushes[number])
        if cause is not None:
            pairs = zip(chunk.messages, chunk.partitions, strict=True)
            refused = [message for message, number in pairs if number in refusing]
            raise SendInterrupted(cause, self.sent, [], refused) from cause

    def make_sure_of_room(self, wanted: dict[str, int], chunk: _Chunk) -> None:
        try:
            if self.when_full == "block":
                self.backlog.wait(wanted)
            else:
                self.backlog.refuse(wanted)
        except (QueueFull, redis.RedisError, OSError) as error:
            raise SendInterrupted(error, self.sent, [], chunk.messages) from error


def _own_id(message_id: object) -> bytes:
    """An id of the caller's, as it stands between the quotes of JSON. Raises `MessageError` for what is no id."""
    if not isinstance(message_id, str) or not message_id:
        raise MessageError(f"id_of must give a text that is not empty, not {message_id!r:.80}", reason="bad-id")
    try:
        return in_quotes(message_id)
    except (UnicodeEncodeError, ValueError) as error:
        raise MessageError(f"id_of gave what can't be written as JSON: {error}", reason="bad-id") from None


def _progress_bar(wanted: bool | None) -> Progress | None:
    console = Console(stderr=True)
    if wanted is False or (wanted is None and not console.is_terminal):
        return None
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        console=console,
    )


class _Speed(TextColumn):
    """Messages per second so far."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Any) -> Any:
        speed = task.finished_speed or task.speed
        self.text_format = "" if speed is None else f"{speed:,.0f} messages/s"
        return super().render(task)
