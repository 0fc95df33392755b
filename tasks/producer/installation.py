"""What `install` puts on a Celery app, and the registry of declared computations that all installed apps share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.entity import Exchange, Queue

from config.celeryconfig import broker_options, broker_url
from config.settings import DEFAULT_REDIS_URL, Settings
from tasks.model.computation import Computation
from tasks.model.errors import DeclarationError, SetupError
from tasks.model.keys import partition_of
from tasks.producer.task import ComputationTask
from tasks.store.group import Group
from tasks.store.names import INGRESS

_REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "sentinel")


class Installation:
    """One Celery app with partitions: its settings, its group in Redis, and the declared computations."""

    def __init__(self, app: Celery, settings: Settings, *, by_default: bool) -> None:
        self.app = app
        self._settings = settings
        #: Whether a worker started without -Q serves partitions.
        self.by_default = by_default
        self.computations: Mapping[str, Computation] = declared
        self._queues: dict[str, Queue] = {}

    @cached_property
    def group(self) -> Group:
        """The group in Redis; made when first needed, because it wants the app's configuration."""
        options = self.app.conf.broker_transport_options or {}
        return Group(self.settings, options.get("global_keyprefix", ""))

    @cached_property
    def settings(self) -> Settings:
        """The settings, on the app's own broker. Raises `SetupError` when that is not Redis, or not REDIS_URL's place."""
        broker = self.app.conf.broker_url
        refuse_other_brokers(broker)
        if not broker or _place(broker_url(self._settings.redis_url)) == _place(broker):
            return self._settings
        if self._settings.redis_url == DEFAULT_REDIS_URL:
            return replace(self._settings, redis_url=broker)
        raise SetupError(
            "REDIS_URL and the app's broker_url are two different places, and queue and state must be in one Redis. "
            "Unset REDIS_URL, or make broker_url the same"
        )

    def use_redis_url(self) -> None:
        """For an app that names no broker: REDIS_URL's place is it, with what it takes to connect there."""
        conf = self.app.conf
        for name, value in broker_options(self._settings).items():
            if name.startswith("broker_") and not conf.get(name):
                conf[name] = value

    def register(self, computation: Computation) -> None:
        """Make the computation a Celery task of this app, so that every Celery tool knows its name."""
        made = type(
            computation.function.__name__,
            (ComputationTask,),
            {
                "name": computation.name,
                "installation": self,
                "computation": computation,
                "__doc__": computation.function.__doc__,
                "__module__": computation.function.__module__,
            },
        )
        if isinstance(self.app.tasks.get(computation.name), ComputationTask):
            self.app.tasks.unregister(computation.name)  # its module was imported again: nothing to warn of
        self.app.register_task(made())

    def unit_of(self, computation: Computation, message: Any) -> str:
        """The partition of a decoded message. Raises `KeyExtractionError`."""
        return str(partition_of(computation.key_of(message), self.settings.partitions))

    def queue(self, unit: str) -> Queue:
        """The Celery queue of a unit, in the shape that foreign producers write it in."""
        name = self.group.names.queue_name(unit)
        if name not in self._queues:
            self._queues[name] = Queue(name, Exchange(name), routing_key=name)
        return self._queues[name]

    def route(
        self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any = None, **more: Any
    ) -> dict[str, Any] | None:
        """Celery's router hook: `send_task` of a computation, from anywhere in Python, goes to its key's queue.

        Called by Celery for every task that is sent, before it is serialised; an explicit `queue=` beats it. Raises
        `MessageError` for a message that does not fit or has no key.
        """
        computation = declared.get(name)
        if computation is None or options.get("queue"):
            return None
        self.group.check()
        message = computation.codec.from_arguments(list(args or ()), dict(kwargs or {}))
        _, decoded = computation.codec.encode(message)
        return {"queue": self.queue(self.unit_of(computation, decoded))}

    def ingress_queue(self) -> Queue:
        return self.queue(INGRESS)


def _place(url: str) -> str:
    """A Redis URL without the database that is meant when none is said."""
    return url.removesuffix("/0").removesuffix("/")


def refuse_other_brokers(broker: str | None) -> None:
    """Raise `SetupError` for a broker URL that is not Redis's; None is taken."""
    scheme = urlsplit(str(broker or "redis://")).scheme
    if scheme not in _REDIS_SCHEMES:
        raise SetupError(
            f"partitions live in Redis, and this app's broker is {scheme}://. Give the app a redis:// broker_url"
        )


#: Every computation declared in this process, by name.
declared: dict[str, Computation] = {}
_installations: list[Installation] = []
_default: list[Callable[[], Celery]] = []


def add_installation(installation: Installation) -> None:
    """From now on the installation's app knows every declared computation; it is the one that handles use."""
    _installations.append(installation)
    for computation in declared.values():
        installation.register(computation)


def add_computation(computation: Computation) -> None:
    """Called once for each declaration, at import. Raises `DeclarationError` for a name that is taken."""
    before = declared.get(computation.name)
    if before is not None and not _same_source(before, computation):
        raise DeclarationError(
            f"computation {computation.name!r} is declared twice: in {before.function.__module__} and in "
            f"{computation.function.__module__}. Names are what producers send, so each needs its own"
        )
    declared[computation.name] = computation
    for installation in _installations:
        installation.register(computation)


def _same_source(one: Computation, other: Computation) -> bool:
    """The same function imported again: a reload, or a script that is also `__main__`."""
    return one.function.__qualname__ == other.function.__qualname__ and (
        one.function.__module__ == other.function.__module__
        or "__main__" in (one.function.__module__, other.function.__module__)
    )


def use_by_default(make_app: Callable[[], Celery]) -> None:
    """What makes `tasks.app` when a handle is used and no app was installed."""
    _default[:] = [make_app]


def installation_of(app: Celery) -> Installation | None:
    """The installation on an app, if `install(app)` was called."""
    return next((one for one in reversed(_installations) if one.app is app), None)


def current_installation() -> Installation:
    """The installation that handles use: the last one made; `tasks.app`'s when there is none."""
    if not _installations and _default:
        _default[0]()
    if not _installations:
        raise SetupError("no Celery app has partitions: call tasks.install(app), or import app from tasks")
    return _installations[-1]
