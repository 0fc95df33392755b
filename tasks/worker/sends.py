"""Makes what computations send with Celery's own functions a part of their commits: `delay`, `apply_async`, `send_task`, signatures.

They all end in `Celery.send_task`. A worker replaces it once per process. Outside computations the replacement calls Celery's function.
Inside, most messages are made here as Celery would make them. The others are made by Celery's code, which publishes to a recording.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, signals
from celery.result import AsyncResult
from kombu.serialization import dumps

from celery_partitions.model.effects import Push
from celery_partitions.model.messages import details_of
from celery_partitions.model.outbox import Outbox, current_outbox
from celery_partitions.producer.direct import TaskTemplate
from celery_partitions.results.recorder import NotAQueue, SendRecording, record_messages, recorded_by
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.sent_now import ANOTHER_APP, ANOTHER_BROKER, note_sent_now

#: The positional parameters of `Celery.send_task` after the task's arguments.
POSITIONAL = ("countdown", "eta", "task_id", "producer", "connection", "router", "result_cls", "expires", "publisher", "link", "link_error")
#: Options that do not change the message's form. All others need Celery's code.
_KNOWN_OPTIONS = frozenset({"task_id", "task_type", "result_cls", "ignore_result", "serializer", "queue", "add_to_parent", "producer", "publisher"})
#: How much of the arguments the headers contain, for monitors. The same as Celery's limit.
MAX_SHOWN = 1024

_send_task = Celery.send_task
_joining: dict[Celery, JoinedSends] = {}


def join_sends(installation: Installation) -> None:
    """Let what computations of an app send join their commits, in this process from now on. Repeating it is harmless."""
    global _send_task
    app = installation.app
    _joining[app] = JoinedSends(installation)
    if Celery.send_task is not send_task:
        _send_task = Celery.send_task
        Celery.send_task = send_task


def send_task(app: Celery, name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> AsyncResult:
    """In place of `Celery.send_task`."""
    outbox = current_outbox()
    if outbox is None:
        return _send_task(app, name, args, kwargs, *more, **options)
    options.update(zip(POSITIONAL, more, strict=False))
    joined = _joining.get(app)
    if joined is None or outbox.app is not app:
        why = ANOTHER_APP
    elif joined.goes_elsewhere(options):
        why = ANOTHER_BROKER
    else:
        return joined.send(outbox, name, args, kwargs, options)
    note_sent_now(name, why)
    return _send_task(app, name, args, kwargs, **options)


class JoinedSends:
    """The sends of one app in one process. Safe for threads."""

    def __init__(self, installation: Installation) -> None:
        self.app, self.installation = installation.app, installation
        self.recorder = record_messages(self.app, installation.group.names, installation.settings.follow_up_queues)
        self._templates: dict[tuple[str, str, bool | None], TaskTemplate] = {}
        self._place = _place(self.app.connection_for_write())
        #: The app's configuration when it was last checked. Reading Celery's settings costs more than making a message.
        self._configured: tuple[Any, dict[str, Any]] | None = None
        self._is_plain = False

    def goes_elsewhere(self, options: dict[str, Any]) -> bool:
        """Whether a send names a connection to another broker. Celery's canvas passes a producer for the app's own."""
        producer, connection = options.get("producer") or options.get("publisher"), options.get("connection")
        if producer is not None:
            connection = producer.connection
        return connection is not None and _place(connection) != self._place

    def send(self, outbox: Outbox, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> AsyncResult:
        """Send with the commit of the message that the computation is applying."""
        task = options.get("task_type") or self.app.tasks.get(name)
        if options.get("task_type") is None and task is not None:  # as Celery does
            own = {option: value for option, value in task._get_exec_options().items() if value is not None}
            options = {**own, **options}
        cause = outbox.cause()
        parent_id, root_id = cause.envelope.headers.id, details_of(cause.raw).root_id
        lineage = {"root_id": root_id if isinstance(root_id, str) else parent_id, "parent_id": parent_id}
        task_id = options.get("task_id") or outbox.next_id()
        given = {option: value for option, value in options.items() if value is not None}
        queue = self._plain_queue(name, args, kwargs, given, task)
        if queue is not None:
            ignore_result = given.get("ignore_result")
            template = self._templates.get((name, queue, ignore_result))
            if template is None:
                template = self._templates[name, queue, ignore_result] = TaskTemplate(self.app, name, queue, ignore_result=ignore_result)
            args, kwargs = args or (), kwargs or {}
            body = dumps((args, kwargs, {}), "json")[2].encode()
            shown = repr(args)[:MAX_SHOWN], repr(kwargs)[:MAX_SHOWN]
            outbox.add(Push(queue, template.fill(task_id, body, *shown, self.app.thread_oid, *lineage.values())))
            result = (options.get("result_cls") or self.app.AsyncResult)(task_id)
            result.ignored = ignore_result
            return result
        options = {**lineage, **{option: value for option, value in options.items() if option not in ("producer", "publisher", "connection")}, "task_id": task_id}
        try:
            with recorded_by(SendRecording(outbox)):
                return _send_task(self.app, name, args, kwargs, producer=self.recorder, **options)
        except NotAQueue as error:
            note_sent_now(name, f"it goes to the exchange {str(error)!r:.80}")
            return _send_task(self.app, name, args, kwargs, **options)

    def _plain_queue(self, name: str, args: Any, kwargs: Any, options: dict[str, Any], task: Any) -> str | None:
        """The queue of a message that can be made here. None if an option, a setting, a signal's receiver or a tool needs Celery's code."""
        if (
            options.keys() - _KNOWN_OPTIONS
            or options.get("serializer", "json") != "json"
            or not self._has_plain_configuration()
            or signals.before_task_publish.receivers
            or signals.after_task_publish.receivers
            or hasattr(_send_task, "__wrapped__")
            or name in self.installation.by_task
        ):
            return None
        route = self.app.amqp.router.route({"queue": options["queue"]} if options.get("queue") else {}, name, args, kwargs, task)
        queue = route.pop("queue", None)
        if route or queue is None or queue.exchange.type != "direct" or queue.exchange.delivery_mode not in (None, 2):
            return None
        return None if self.installation.group.names.is_no_queue(queue.name) else str(queue.name)

    def _has_plain_configuration(self) -> bool:
        conf = self.app.conf
        seen = self._configured
        if seen is None or seen[0] is not conf or seen[1] != conf.changes:
            self._configured = conf, dict(conf.changes)
            self._is_plain = (
                conf.task_serializer == "json"
                and conf.task_compression is None
                and conf.task_protocol == 2
                and not conf.task_send_sent_event
                and conf.task_default_delivery_mode == 2
                and self.installation.tracing is None
            )
        return self._is_plain


def _place(connection: Any) -> tuple[Any, ...]:
    """What identifies a broker."""
    return connection.transport_cls, connection.hostname, connection.port, connection.virtual_host
