"""Publishes a computation's message without Celery's publishing code if no option needs it: the same message, several times faster.

For each `apply_async`, Celery builds headers, a kombu message and a signal payload. Here Celery's code builds the headers once per
partition, and each message fills in what differs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import redis
from celery import Celery, Task, signals
from celery._state import get_current_worker_task
from kombu.exceptions import OperationalError
from kombu.utils.functional import fxrange, retry_over_time

from celery_partitions.model.message_writer import NO_PARENT, MessageTemplate, escape, json_text
from celery_partitions.store.servers import server_of
from celery_partitions.store.servers_async import server_of_async
from celery_partitions.store.servers_pipeline import MOVES

if TYPE_CHECKING:
    from celery_partitions.runtime.installation import Installation

#: Options of a call that are handled here. All others need Celery's code.
_KNOWN_OPTIONS = frozenset({"task_id"})
#: Options of a task, set on its class or by `task_annotations`, that change the message or its route.
_TASK_OPTIONS = ("queue", "routing_key", "exchange", "expires", "delivery_mode", "compression", "time_limit", "soft_time_limit")
#: Headers and properties that differ between messages.
_FILLED_IN = ("id", "root_id", "parent_id", "argsrepr", "kwargsrepr", "correlation_id", "reply_to")
#: Errors while connecting. The server was not reached, so a retry can't send twice.
_CONNECTING = (redis.ConnectionError, redis.TimeoutError, OSError)


class DirectPublisher:
    """Publishes the messages of one Celery task in one process. Safe for threads, and after a fork."""

    def __init__(self, task: Task, installation: Installation) -> None:
        self._task, self._installation = task, installation
        self._app = task.app
        self._has_own_options = any(getattr(task, name, None) is not None for name in _TASK_OPTIONS)
        #: By partition: its queue's key in Redis, and the messages to it.
        self._templates: dict[str, tuple[str, TaskTemplate]] = {}
        #: The app's configuration when it was last checked. Reading Celery's settings costs more than everything else here.
        self._configured: tuple[Any, dict[str, Any]] | None = None
        self._is_plain = False

    def serves(self, options: dict[str, Any]) -> bool:
        """Whether a call can be published here. False if an option, setting, router, signal receiver or wrapper needs Celery's code."""
        return (
            not options.keys() - _KNOWN_OPTIONS
            and not self._has_own_options
            and self._has_plain_configuration()
            and not signals.before_task_publish.receivers
            and not signals.after_task_publish.receivers
            and not _is_wrapped(Task.apply_async, self._app.send_task)
            and get_current_worker_task() is None  # inside a task, Celery adds that task's id, root and priority
        )

    def _has_plain_configuration(self) -> bool:
        """Whether the app's configuration needs nothing that only Celery's code does. Checked again after a change."""
        conf = self._app.conf
        seen = self._configured
        if seen is None or seen[0] is not conf or seen[1] != conf.changes:
            self._configured = conf, dict(conf.changes)
            self._is_plain = (
                conf.task_routes == [self._installation.route]
                and conf.task_compression is None
                and conf.task_protocol == 2
                and not conf.task_send_sent_event
                and not conf.task_always_eager
                and bool(self._task.ignore_result)  # otherwise the result backend is informed of each call
                and self._installation.tracing is None
            )
        return self._is_plain

    def publish(self, partition: str, message_id: str, body: bytes, shown: str) -> None:
        """Push one message. `body`: the JSON of `[[message], {}, {}]`; `shown`: the `argsrepr` for monitors.

        Raises kombu's `OperationalError` if the server can't be reached, after the retries of the app's `task_publish_retry_policy`. Also
        raises it, without a retry, if the server refuses the message (it is full, for example), or if the connection breaks after the message
        was sent. Then the message may be in the queue.
        """
        queue, raw = self.message(partition, message_id, body, shown)
        client = server_of(self._installation.group.client, queue)
        connection = self._connection(client)
        try:
            connection.send_command("LPUSH", queue, raw)
            connection.read_response()
        except MOVES:
            self._installation.group.client.execute_command("LPUSH", queue, raw)  # to the server that has the queue now
        except redis.ResponseError as error:
            raise _refused(error, queue) from error
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            raise _uncertain(error, message_id, queue) from error
        except BaseException:  # raised by a signal handler; the reply would arrive later on this connection
            connection.disconnect()
            raise
        finally:
            client.connection_pool.release(connection)

    async def publish_async(self, partition: str, message_id: str, body: bytes, shown: str) -> None:
        """The same with the running event loop's client."""
        queue, raw = self.message(partition, message_id, body, shown)
        client, slots = self._installation.group.async_clients.current()
        async with slots:
            server = await server_of_async(client, queue)
            connection = await self._connection_async(server)
            try:
                await connection.send_command("LPUSH", queue, raw)
                await connection.read_response()
            except MOVES:
                await client.execute_command("LPUSH", queue, raw)  # to the server that has the queue now
            except redis.ResponseError as error:
                raise _refused(error, queue) from error
            except (redis.RedisError, OSError) as error:
                await connection.disconnect(nowait=True)
                raise _uncertain(error, message_id, queue) from error
            except BaseException:  # the task was cancelled; the reply would arrive later on this connection
                await connection.disconnect(nowait=True)
                raise
            finally:
                await server.connection_pool.release(connection)

    def message(
        self, partition: str, message_id: str, body: bytes, shown: str, root_id: str | None = None, parent_id: str | None = None
    ) -> tuple[str, bytes]:
        """The queue's key in Redis, and the raw message. `root_id`, `parent_id`: of a message that another one caused."""
        found = self._templates.get(partition)
        if found is None:
            names = self._installation.group.names
            template = TaskTemplate(self._app, self._task.name, names.queue_name(partition), ignore_result=True)
            found = self._templates[partition] = names.queue(partition), template
        queue, template = found
        return queue, template.fill(message_id, body, shown, "{}", self._app.thread_oid, root_id, parent_id)

    async def _connection_async(self, client: Any) -> Any:
        """The same with an asyncio client."""
        policy, retries = self._retry_policy(), 0
        waits = iter(fxrange(policy.get("interval_start", 2), policy.get("interval_max", 30), policy.get("interval_step", 2), repeatlast=True))
        limit = policy.get("max_retries")
        while True:
            try:
                return await client.connection_pool.get_connection()
            except _CONNECTING as error:
                if limit is not None and retries >= limit:
                    raise self._installation.unreachable(error) from error
            retries += 1
            await asyncio.sleep(next(waits))

    def _retry_policy(self) -> dict[str, Any]:
        """The app's policy for connecting, as kombu reads it."""
        conf = self._app.conf
        if not conf.task_publish_retry:
            return {"max_retries": 0}
        return {name: value for name, value in conf.task_publish_retry_policy.items() if name != "retry_errors"}

    def _connection(self, client: redis.Redis) -> Any:
        """A live connection, with the app's retry policy."""
        get = client.connection_pool.get_connection
        try:
            return get()
        except _CONNECTING as error:
            if not self._app.conf.task_publish_retry:
                raise self._installation.unreachable(error) from error
        try:
            return retry_over_time(get, _CONNECTING, **self._retry_policy())
        except _CONNECTING as error:
            raise self._installation.unreachable(error) from error


class TaskTemplate:
    """The messages of one task to one queue, as Celery makes them: its code makes one, and what does not differ is kept."""

    def __init__(self, app: Celery, task: str, queue: str, *, ignore_result: bool | None) -> None:
        made = app.amqp.create_task_message("", task, (), {}, ignore_result=ignore_result)
        headers = {name: value for name, value in made.headers.items() if name not in _FILLED_IN}
        properties = {name: value for name, value in made.properties.items() if name not in _FILLED_IN}
        self._template = MessageTemplate(queue, headers, properties)
        #: What Celery puts at the end of a body, instead of the empty object.
        self._end = json_text(made.body[2]) + b"]"

    def fill(
        self, message_id: str, body: bytes, shown_args: str, shown_kwargs: str, reply_to: str, root_id: str | None, parent_id: str | None
    ) -> bytes:
        """The raw message. `body`: the JSON of `[args, kwargs, {}]`. `shown_args`, `shown_kwargs`: for monitors. `root_id`: None if it is the
        first message of its chain."""
        parent = NO_PARENT if parent_id is None else b',"parent_id":' + json_text(parent_id)
        return self._template.fill(
            escape(message_id),
            b"%.6f" % time.time(),
            body[:-3] + self._end,
            b'%b,"argsrepr":%b,"kwargsrepr":%b' % (parent, json_text(shown_args), json_text(shown_kwargs)),
            None if root_id is None else escape(root_id),
            b'"reply_to":"%b",' % reply_to.encode(),
        )


def _refused(error: Exception, queue: str) -> OperationalError:
    return OperationalError(f"Redis refused the message for {queue}: {str(error).rstrip('.')}. It was not sent")


def _uncertain(error: Exception, message_id: str, queue: str) -> OperationalError:
    text = f"{str(error).rstrip('.')}. The message {message_id} may or may not be in its queue {queue}. Sending it again may duplicate it"
    return OperationalError(text)


def _is_wrapped(*functions: Any) -> bool:
    """Whether a monitoring tool has wrapped one of Celery's sending functions, to add its own headers."""
    return any(hasattr(function, "__wrapped__") for function in functions)
