"""`install(app)`: what makes any Celery app one with partitions. Everything else the app has stays as it is."""

from __future__ import annotations

from typing import Any

from celery import Celery, signals
from kombu.entity import Exchange, Queue

from celery_partitions.producer.declarations import add_installation, declared, installation_of
from celery_partitions.producer.installation import Installation, refuse_other_brokers
from celery_partitions.producer.tracing import carry_traces
from celery_partitions.store.names import units
from celery_partitions.worker import control as control
from celery_partitions.worker.bootstep import PartitionStep, note_command_line
from celery_partitions.worker.logs import collect_celerys_lines
from celery_partitions_config.settings import Settings


def install(app: Celery, settings: Settings | None = None, *, by_default: bool = False) -> Celery:
    """Give a Celery app partitions; returns the app. Called once, where the app is made.

    `settings`: read from the environment when None; the queues and states live on the app's own broker, so `REDIS_URL` and
    the app's `broker_url` must be the same Redis (when only one is set, it counts for both). `by_default`: whether a worker
    started without -Q serves partitions; else those do that were started with `-Q partition`. Raises `SetupError` for a broker that
    is not Redis.
    """
    if installation_of(app) is not None:
        return app
    given = settings or Settings.from_environment()
    installation = Installation(app, given, declared, by_default=by_default)
    # Again after each `config_from_object`, which begins a new configuration.
    app.on_after_configure.connect(lambda sender, **_: _configure(installation), weak=False)
    if app.configured:
        _configure(installation)
    app.steps["worker"].add(PartitionStep)
    if given.log_format == "json":
        collect_celerys_lines()
    signals.celeryd_init.connect(note_command_line, dispatch_uid="celery-partitions")
    if installation.wants_tracing:
        carry_traces(installation)
    add_installation(installation)
    return app


def _configure(installation: Installation) -> None:
    """Once the app's configuration is there: route computations, and read where the broker is."""
    conf = installation.app.conf
    if not conf.broker_url:
        installation.use_redis_url()
    before: Any = conf.task_routes or ()
    routes = list(before) if isinstance(before, list | tuple) else [before]
    if installation.route not in routes:
        conf.task_routes = [installation.route, *routes]
        installation.app.amqp.flush_routes()
    if installation.by_default and not conf.task_queues:
        # Monitors and `celery purge` know a queue by this list before they have asked a worker.
        default = conf.task_default_queue
        ours = [installation.queue(unit) for unit in units(installation.settings.partitions)]
        conf.task_queues = [Queue(default, Exchange(default), routing_key=default), *ours]
    # Celery only logs what a late configuration raises; the first use of the settings raises it again.
    refuse_other_brokers(conf.broker_url)
