"""What a message that went well tells whoever waits for it, and what follows it: links, chains, chords; as commands of its commit.

Celery's own code decides what is told and sent (`celery_partitions.results.recorder`). Of messages that did not go well: `celery_partitions.results.failure_replies`.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
from celery import Celery, group, states
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.canvas import maybe_signature
from kombu.utils.json import loads

from celery_partitions.model.errors import MessageError, SetupError, describe, trace_of
from celery_partitions.model.items import DeadLetterItem, PlainTask, ReplyRequest
from celery_partitions.model.messages import details_of, open_envelope
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.reply_request import NOTHING_FOLLOWS, wants_reply
from celery_partitions.results.backend import recording_backend, why_not_own_backend
from celery_partitions.results.recorder import Recorder, RecordingBackend
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.client import UNWELL
from celery_partitions.store.results import reply

logger = logging.getLogger("celery.worker.partitions")

#: A key of another type, on which a commit broke, is not pushed to for so long: its messages fail by their policy meanwhile.
BAD_QUEUE_SECONDS = 60.0


class Replies:
    """Made once a loop, used by its thread; asks Celery for nothing until a message asks for something."""

    def __init__(self, installation: Installation, node: str) -> None:
        self.installation, self.node = installation, node
        self.names = installation.group.names
        self._recorder: Recorder | None = None
        self._backend: Any = None
        #: Why results are not stored; said once.
        self._why: str | None = None
        #: By key: until when, by the monotonic clock, it is not pushed to.
        self._bad_queues: dict[str, float] = {}

    @property
    def app(self) -> Celery:
        return self.installation.app

    def prepare(self) -> Recorder:
        """Make what needs the app's configuration, and may ask servers: before a step does, where an outage would be a message's
        failure. Harmless when done twice."""
        if self._recorder is None:
            recorder = Recorder(self.app, self.names)
            why = why_not_own_backend(self.installation)
            self._backend = DisabledBackend(self.app) if why else recording_backend(self.app, recorder)
            self._why, self._recorder = why, recorder
        return self._recorder

    def recorder_and_backend(self, partition: str) -> tuple[Recorder, Any]:
        """The backend's commands are for the partition's commit."""
        recorder = self.prepare()
        if self._why is not None:
            logger.error("partitions: %s: no results are stored of messages that want them, and no chords counted", self._why)
            self._why = None
        self._backend.queue = self.names.queue(partition), self.names.queue_name(partition)
        return recorder, self._backend

    # A message that went well.

    def answer(self, partition: str, item: ReplyRequest) -> None:
        """Make the commands that tell the item's value and push what follows. What it raises is the message's failure."""
        recorder, backend = self.recorder_and_backend(partition)
        if self.is_plain(backend, item):
            item.commands = [self.plain_reply(backend, item)]
            return
        task = self.app.tasks[item.computation.name]
        request = self.request_of(item.raw)
        request.ignore_result = not wants_reply(item.computation, item.envelope.headers)
        value = loads(item.value)
        with recorder.at_work(backend, task, request) as commands:
            self.send_what_follows(request, value)
            backend.mark_as_done(request.id, value, request, store_result=not request.ignore_result)
        self.refuse_bad_queues(commands)
        item.commands = commands

    def is_plain(self, backend: Any, item: ReplyRequest) -> bool:
        """Whether nothing follows, and the result is what `plain_reply` can write: the usual request for a value."""
        return (
            isinstance(backend, RecordingBackend)
            and item.envelope.body.endswith(NOTHING_FOLLOWS)
            and backend.serializer == "json"
            and not backend.compression
            and not self.app.conf.find_value_for_key("extended", "result")
        )

    def plain_reply(self, backend: RecordingBackend, item: ReplyRequest) -> list[Any]:
        """The result as `Backend._get_result_meta` makes it, in its order, around the value's JSON."""
        message_id, details = item.envelope.headers.id, details_of(item.raw)
        extra = "".join(
            f', "{name}": {_text(value)}'
            for name, value in (("group_id", details.group), ("parent_id", details.parent_id))
            if value
        )
        meta = (
            f'{{"status": "SUCCESS", "result": {item.value}, "traceback": null, "children": [], '
            f'"date_done": "{self.app.now().isoformat()}"{extra}, "task_id": {_text(message_id)}}}'
        )
        if len(meta) > backend._MAX_STR_VALUE_SIZE:
            raise MessageError("the value is longer than Redis takes", reason="too-large")
        return reply(backend.get_key_for_task(message_id), meta, backend.expires)

    def send_what_follows(self, request: Context, value: Any) -> None:
        """As Celery's tracer does (`_dispatch_callbacks_and_chain` in `celery.app.trace`)."""
        app = self.app
        about: dict[str, Any] = {"parent_id": request.id, "root_id": request.root_id or request.id, "priority": None}
        if app.conf.task_inherit_parent_priority:
            about["priority"] = (request.delivery_info or {}).get("priority")
        callbacks = [maybe_signature(one, app=app) for one in request.callbacks or ()]
        if len(callbacks) > 1:
            alone = [one for one in callbacks if not isinstance(one, group)]
            callbacks = [one for one in callbacks if isinstance(one, group)]
            if alone:
                callbacks.append(group(alone, app=app))
        for callback in callbacks:
            callback.apply_async((value,), **about)
        if request.chain:
            following = maybe_signature(request.chain[-1], app=app)
            following.apply_async((value,), chain=request.chain[:-1], **about)

    def request_of(self, raw: bytes) -> Context:
        """A message as Celery's tracer knows it. Raises for one that can't be read, as far as that can be."""
        message = msgspec.json.decode(raw)
        headers, properties = message["headers"], message["properties"]
        args, kwargs, embed = _content(raw)
        return Context(
            headers,
            **{name: embed.get(name) for name in ("callbacks", "errbacks", "chain", "chord")},
            args=args,
            kwargs=kwargs,
            hostname=self.node,
            called_directly=False,
            delivery_info={**(properties.get("delivery_info") or {}), "priority": properties.get("priority")},
            reply_to=properties.get("reply_to"),
            correlation_id=properties.get("correlation_id"),
        )

    # Bad queues: what follows a message must not keep its commit from being written.

    def avoid(self, key: str) -> None:
        """A commit was refused because this key holds another type than a list."""
        self._bad_queues[key] = time.monotonic() + BAD_QUEUE_SECONDS

    def refuse_bad_queues(self, commands: list[list[Any]]) -> None:
        """Raise `SetupError` for commands that would push onto a key which is no list."""
        for command in filter(self.is_bad, commands):
            raise SetupError(f"what follows the message goes to queue {command[1]!r}, and that key holds another type, or may not be written")

    def is_bad(self, command: list[Any]) -> bool:
        until = self._bad_queues.get(command[1], 0.0) if self._bad_queues and command[0] == "LPUSH" else 0.0
        return until > time.monotonic()

    # The start of a chord's body.

    def start_chord(self, partition: str, item: PlainTask) -> Outcome:
        """The outcome of the message that the last part's commit pushed: the body's call, or the chord's failure.

        Raises redis-py's errors when the server does not answer; the message is where it was then.
        """
        outcome = Outcome(taken=1)
        try:
            recorder, backend = self.recorder_and_backend(partition)
            _, kwargs, _ = _content(item.raw)
            request = Context(kwargs["request"], called_directly=False, hostname=self.node, delivery_info={})
            task = self.app.tasks.get(request.task) or self.app.tasks["celery.backend_cleanup"]
            backend.outage, backend.starting = None, True
            try:
                with recorder.at_work(backend, task, request) as commands:
                    backend.on_chord_part_return(request, states.SUCCESS, None)
            finally:
                backend.starting = False
            self.refuse_bad_queues(commands)
            outcome.commands = commands
        except UNWELL:
            raise
        except Exception as error:
            headers = item.headers
            dead_letter_item = DeadLetterItem(item.raw, "chord-failed", describe(error), trace_of(error), headers.task, headers.id)
            outcome.dead.append((dead_letter_item, 1))
        else:
            if backend.outage is not None:  # Celery took it for an error of the chord
                raise backend.outage
        return outcome


def _content(raw: bytes) -> tuple[Any, Any, dict[str, Any]]:
    """args, kwargs and embed of a message; nothing of a body that can't be read."""
    try:
        args, kwargs, *rest = loads(open_envelope(raw).body)
    except Exception:
        return (), {}, {}
    return args, kwargs, rest[0] if rest and isinstance(rest[0], dict) else {}


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
