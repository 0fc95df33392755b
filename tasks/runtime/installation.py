"""What `install` adds to a Celery app: its broker's address, its group in Redis, and the routing of messages to queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from celery import Celery, Task
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError
from kombu.utils.url import as_url, url_to_parts

from celery_partitions.admin.timeline import KeyWatch
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import MessageError, SetupError
from celery_partitions.model.message_writer import Cause, MakeCause, MessageWriter
from celery_partitions.runtime.group import Group
from celery_partitions.runtime.peer import Peer
from celery_partitions.runtime.published_form import publish_as_read
from celery_partitions.runtime.queue_limit import Backlog
from celery_partitions.store.client import refuse_failover
from celery_partitions.store.names import INGRESS, Names
from celery_partitions.tracing.switch import tracing_for
from celery_partitions_config.celeryconfig import broker_options, broker_url
from celery_partitions_config.resolution import Resolved, misspelt, resolve, variables
from celery_partitions_config.settings import DEFAULT_SENTINEL_MASTER, Settings

if TYPE_CHECKING:
    from celery_partitions.tracing.spans import Tracing

#: An upper estimate of what Celery adds to a body.
ENVELOPE_BYTES = 3_000

_REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "sentinel")


@dataclass(frozen=True, slots=True)
class PartitionWorker:
    """The worker process that a lifespan runs in."""

    app: Celery
    #: The worker's node name, such as `celery-3f9a1c@host`.
    node: str


#: See `install`.
Lifespan = Callable[[PartitionWorker], AbstractAsyncContextManager[Mapping[str, Any] | None] | AbstractContextManager[Mapping[str, Any] | None]]


class Installation:
    """One Celery app with partitions: its settings, its group in Redis, and the declared computations."""

    #: The app's task for a computation is a subclass of this.
    task_class: type[Task] = Task

    def __init__(
        self,
        app: Celery,
        settings: Settings | None,
        computations: Mapping[str, Computation],
        *,
        by_default: bool,
        lifespan: Lifespan | None = None,
        peer: Peer | None = None,
    ) -> None:
        self.app = app
        #: Where the messages of a sink's own group are written. None: a computation processes them.
        self.peer = peer
        #: Entered by each worker process.
        self.lifespan = lifespan
        #: The settings given in code, and the environment variables at that time. The app's configuration is read later.
        self._code, self._environment = settings, variables()
        #: Whether a worker started without -Q serves partitions.
        self.by_default = by_default
        #: Every computation declared in this process, by name.
        self.computations = computations
        #: Whether workers run the app's beat_schedule.
        self.beat = False
        self._queues: dict[str, Queue] = {}

    @cached_property
    def group(self) -> Group:
        """The group in Redis. Created on first use, because it needs the app's configuration."""
        options = self.app.conf.broker_transport_options or {}
        return Group(self.settings, options.get("global_keyprefix", ""))

    @property
    def by_task(self) -> Mapping[str, Computation]:
        """The computations by the task names that their messages may have: `computations`, and the former names of those that were renamed."""
        former = {name: one for one in self.computations.values() for name in one.former_names}
        return {**self.computations, **former} if former else self.computations

    @cached_property
    def resolved(self) -> Resolved:
        """The settings with their origins, without regard to the app's broker. Loads the app's configuration."""
        return resolve(self._code, self._environment, self.app.conf)

    @property
    def misspelt(self) -> dict[str, str]:
        """Names in the environment and in the app's configuration that are probably meant as settings: name → the right name."""
        given = [name for part in self.app.conf.maps for name in part if isinstance(name, str)]
        return misspelt(None, given)

    @cached_property
    def settings(self) -> Settings:
        """The settings, with the app's own broker. Invalid values that only workers use count as defaults; workers call
        `resolved.check` first.

        Raises `SettingsError` for an invalid value, and `SetupError` if the app's broker is not Redis, or the code names another Redis.
        """
        settings, broker = self.resolved.check("producers"), refuse_other_brokers(self.app.conf.broker_url)
        refuse_two_brokers(self.app.conf)
        if broker and _place(broker_url(settings.redis_url)) != _place(broker):
            if self.resolved.sources["redis_url"] == "code":
                raise SetupError(
                    "the app's broker_url and the redis_url in its Settings name different servers or databases, but queues and "
                    "states must be in one. Leave redis_url out, or make broker_url the same"
                )
            # REDIS_URL may belong to something else, such as the cache.
            settings = replace(settings, redis_url=broker)
        return self._with_the_apps_master(with_broker_options(self.app, settings))

    @property
    def redis_source(self) -> str:
        """The setting that the server's address comes from, for error messages."""
        if self.settings.redis_url != self.resolved.settings.redis_url:
            return "the app's broker_url"
        match self.resolved.sources["redis_url"]:
            case "environment":
                return "REDIS_URL"
            case "default" if self.by_default:
                return "the default, because REDIS_URL is not set, and no app with celery_partitions.install(app) was imported"
            case "default":
                return "the default, because neither REDIS_URL nor the app's broker_url is set"
            case source:
                return f"redis_url ({source})"

    @property
    def state_modules(self) -> tuple[str, ...]:
        """The modules whose classes states may contain, besides plain data and their own module (PARTITIONS_STATE_MODULES)."""
        return self.resolved.check("producers").state_modules

    def _with_the_apps_master(self, settings: Settings) -> Settings:
        """Use the sentinel master in the app's transport options. A sentinel knows many masters; our client must use kombu's."""
        if not settings.redis_url.startswith("sentinel://"):
            return settings
        options = self.app.conf.broker_transport_options or {}
        master = options.get("master_name") or settings.redis_sentinel_master
        if settings.redis_sentinel_master not in (master, DEFAULT_SENTINEL_MASTER):
            raise SetupError(
                f"PARTITIONS_REDIS_SENTINEL_MASTER is {settings.redis_sentinel_master!r}, but master_name in the app's "
                f"broker_transport_options is {master!r}. Queues and states must be in one Redis. Unset PARTITIONS_REDIS_SENTINEL_MASTER, "
                "or make master_name the same"
            )
        sentinel_kwargs = options.get("sentinel_kwargs") or dict(settings.redis_sentinel_kwargs)
        return replace(settings, redis_sentinel_master=master, redis_sentinel_kwargs=tuple(sentinel_kwargs.items()))

    @cached_property
    def tracing(self) -> Tracing | None:
        """Makes spans. None if PARTITIONS_TRACING is off. Raises `SetupError` if it is on and OpenTelemetry is not installed."""
        return tracing_for(self.settings, self.group.names)

    def use_redis_url(self) -> None:
        """Make REDIS_URL the broker of an app that names none, with the options needed to connect."""
        conf = self.app.conf
        for name, value in broker_options(self.resolved.check("producers")).items():
            if name.startswith("broker_") and not conf.get(name):
                conf[name] = value

    def partition_of_message(self, computation: Computation, message: Any) -> str:
        """The partition of a decoded message. Raises `KeyExtractionError` if it has no key."""
        key = computation.key_of(message)
        return str(self.group.topology.of_senders.partition_of(key))

    def check_size(self, body: bytes) -> None:
        """Raise `MessageError` if the message with this body would be too long for workers to decode."""
        if len(body) * 4 // 3 + ENVELOPE_BYTES > self.settings.message_bytes:
            raise MessageError(
                f"the message has {len(body)} bytes of JSON, which base64 makes a third longer; workers decode at most "
                f"{self.settings.message_bytes} bytes (PARTITIONS_MESSAGE_BYTES). Store large data elsewhere and send a reference",
                reason="too-large",
            )

    def refuse_eager(self) -> None:
        """Raise `SetupError` if the app runs tasks in the producer (task_always_eager), because a computation runs only in a worker."""
        if self.app.conf.task_always_eager:
            raise SetupError(
                "task_always_eager is on, but a computation runs only in its partition's worker. Turn task_always_eager off. To run "
                "computations and pipelines in memory in tests, use celery_partitions.testing.harness"
            )

    def watch_key(self, key: str) -> KeyWatch:
        """What happens to a key, for operators."""
        group = self.group
        return KeyWatch(key, group.states, group.parked_keys, group.audit, self.by_task)

    def queue(self, partition: str) -> Queue:
        """The Celery queue of a partition, declared as other producers declare it."""
        name = self.group.names.queue_name(partition)
        if name not in self._queues:
            self._queues[name] = Queue(name, Exchange(name), routing_key=name)
        return self._queues[name]

    def message_writer(self, origin: str, make_cause: MakeCause = Cause) -> MessageWriter:
        """Makes the messages for outputs. `origin`: the sender's name in them. `make_cause`: makes what outputs inherit."""
        names = self.group.names
        return MessageWriter(
            topology=lambda: self.group.topology.of_senders,
            queue_of=lambda number: names.queue_name(str(number)),
            queue_of_task=self.queue_of_task,
            queue_of_sink=lambda name: Names(names.sink_group(name)).queue_name("0"),
            origin=origin,
            max_bytes=self.settings.message_bytes,
            make_cause=make_cause,
        )

    def queue_of_task(self, name: str) -> str:
        """The name of the queue to which the app's routes send a plain task."""
        options = self.app.amqp.router.route({}, name, (), {})
        queue = options.get("queue")
        if queue is None:
            return str(self.app.conf.task_default_queue)
        return str(getattr(queue, "name", queue))

    def queue_with_room(self, partition: str) -> Queue:
        """The queue to which Celery's code publishes a message for a partition, after checking that the partition's queue has room for one more
        message. Raises like `make_sure_of_room`.

        With `PARTITIONS_URL` it is the ingress: kombu does not reach the partitions' servers.
        """
        self.make_sure_of_room(partition)
        return self.queue(INGRESS if self.group.names.is_spread else partition)

    def make_sure_of_room(self, partition: str) -> None:
        """Check that a partition's queue has room for one more message. Raises `QueueFull` if not, `SetupError` if the group has another
        number of partitions, and Celery's `OperationalError`, which callers expect, if the broker can't be reached."""
        try:
            self.group.check()
            if self.settings.queue_max_length:
                Backlog(self.group.client, self.group.names, self.settings.queue_max_length).refuse({partition: 1})
        except (redis.RedisError, OSError) as error:
            raise self.unreachable(error) from error

    def unreachable(self, error: Exception) -> OperationalError:
        """The error of a producer whose broker can't be reached. It says which setting has the address."""
        return OperationalError(f"{str(error).rstrip('.')}. The address comes from {self.redis_source}")

    async def make_sure_of_room_async(self, partition: str) -> None:
        """The same in the running event loop."""
        try:
            await self.group.check_async()
            if self.settings.queue_max_length:
                backlog = Backlog(self.group.client, self.group.names, self.settings.queue_max_length)
                await self.group.async_clients.run(backlog.refusal({partition: 1}))
        except (redis.RedisError, OSError) as error:
            raise self.unreachable(error) from error

    def route(
        self, name: str, args: Any, kwargs: Any, options: dict[str, Any], task: Any = None, **more: Any
    ) -> dict[str, Any] | None:
        """Celery's router hook: `send_task` of a computation goes to the queue of the message's key.

        Celery calls it for every task it sends, before serialization. An explicit `queue=` takes precedence. Raises `MessageError` for an
        invalid message, `KeyExtractionError` for one without a key, and `QueueFull` if the queue has no room.

        Changes `options` in place (`publish_as_read`). They belong to this one send, and take precedence over a router's answer.
        """
        computation, queue = self.by_task.get(name), options.get("queue")
        if computation is not None or (queue and self._is_ours(queue)):
            publish_as_read(options, self.app.conf.task_compression)
        if computation is None or queue:
            return None
        message = computation.codec.from_arguments(list(args or ()), dict(kwargs or {}))
        body, decoded = computation.codec.encode(message)
        self.check_size(body)
        return {"queue": self.queue_with_room(self.partition_of_message(computation, decoded))}

    def _is_ours(self, queue: Queue | str) -> bool:
        # Not `self.group`, which raises if the app's broker can't be used. A plain task must not fail because of that.
        names = Names(self.resolved.settings.group)
        return names.partition_of_queue(str(getattr(queue, "name", queue))) is not None


def with_broker_options(app: Celery, settings: Settings) -> Settings:
    """The settings with what kombu uses besides the broker's URL: the app's `broker_use_ssl`, and what completes the URL (`broker_user`, …)."""
    conf, url = app.conf, settings.redis_url
    if isinstance(conf.broker_use_ssl, Mapping):
        settings = replace(settings, redis_tls_options=tuple(conf.broker_use_ssl.items()))
    if url.startswith(("redis://", "rediss://")) and (conf.broker_user or conf.broker_password or conf.broker_port or conf.broker_vhost):
        parts, query = url_to_parts(url), urlsplit(url).query
        user, password = parts.username or conf.broker_user, parts.password or conf.broker_password
        port, database = parts.port or conf.broker_port, parts.path or conf.broker_vhost
        url = as_url(parts.scheme, parts.hostname, port, user, password, str(database or "0").lstrip("/")) + (f"?{query}" if query else "")
        settings = replace(settings, redis_url=url)
    return settings


def refuse_two_brokers(conf: Any) -> None:
    """Raise `SetupError` if the app sends to another server or database than its `broker_url`, or consumes from another: queues and states
    are in one place, so a message would be where no worker looks."""
    broker = refuse_other_brokers(conf.broker_url)
    for name in ("broker_write_url", "broker_read_url"):
        other = refuse_other_brokers(getattr(conf, name))
        if broker and other and _server(other) != _server(broker):
            raise SetupError(
                f"{name} and broker_url of the app name different servers or databases, but messages, queues and states must be in one. "
                f"Leave {name} out (also CELERY_{name.upper()}), or make it the same"
            )


def _server(url: str) -> tuple[object, ...]:
    """What a broker URL connects to, without credentials and options."""
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss"):
        return parts.hostname or "localhost", parts.port or 6379, parts.path.strip("/") or "0"
    return parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query


def _place(url: str) -> str:
    """A Redis URL without the default database."""
    return url.removesuffix("/0").removesuffix("/")


def refuse_other_brokers(broker: str | Sequence[str] | None) -> str:
    """An app's broker URL, which may be a list, as one text; "" if there is none. Raises `SetupError` if it is not one Redis."""
    url = broker or "" if broker is None or isinstance(broker, str) else ";".join(broker)
    scheme = urlsplit(url or "redis://").scheme
    if scheme not in _REDIS_SCHEMES:
        # The URL itself may have a password in it.
        is_one = f"is {scheme}://" if url.startswith(f"{scheme}://") and scheme else "has a URL without a scheme"
        raise SetupError(
            f"partitions need a Redis broker, but this app's broker {is_one}. Set REDIS_URL or the app's broker_url to a URL "
            "that begins with redis://, rediss://, unix:// or sentinel://"
        )
    refuse_failover(url)
    return url
