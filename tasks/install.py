"""`install(app)` adds partitions to any Celery app, and changes nothing else of it."""

from __future__ import annotations

from typing import Any

from celery import Celery, signals
from kombu.entity import Exchange, Queue

from celery_partitions.producer.task import ComputationTask
from celery_partitions.producer.tracing import carry_traces
from celery_partitions.runtime.installation import Installation, Lifespan, refuse_other_brokers
from celery_partitions.runtime.registry import add_installation, declared, installation_of
from celery_partitions.store.names import partitions_and_ingress
from celery_partitions_config.resolution import resolve
from celery_partitions_config.settings import Settings


def install(
    app: Celery, settings: Settings | None = None, *, by_default: bool = False, lifespan: Lifespan | None = None, beat: bool = False
) -> Celery:
    """Add partitions to a Celery app, and return it. Call it once, where you create the app; a second call changes
    nothing but the lifespan, so that `celery_partitions.app` can be given one.

    It adds a router for computations and a boot step for workers. It opens no connection.

    `settings`: the settings that you want to fix in code. Each other setting comes from the environment, or else from the app's
    configuration (`app.conf.partitions_lease_seconds`). Queues and states are on the app's own broker; an app without a `broker_url`
    uses `REDIS_URL`. `by_default`: whether a worker that is started without -Q serves partitions. By default only workers started with
    `-Q partition` do.

    `lifespan`: a function of one `PartitionWorker` that returns a context manager, async or plain. Each worker process that serves partitions
    enters it at its start, in the event loop of its calls, and leaves it when it stops. It yields a dict, which computations get as
    `context.resources`: clients with their connections, for example. If it raises, the worker does not start.

    `beat`: run the entries of `app.conf.beat_schedule` in partition workers, without `celery beat` (as PARTITIONS_BEAT=1 does). A worker does not
    start if the schedule asks for what it cannot do.

    Raises `SettingsError` for an invalid setting, and `SetupError` for a broker that is not Redis.
    """
    before = installation_of(app)
    if before is not None:
        before.lifespan = lifespan or before.lifespan
        if beat:
            _begin_beat(before)
        return app
    checked = resolve(settings).check("producers")
    installation = Installation(app, settings, declared, by_default=by_default, lifespan=lifespan)
    if beat or checked.beat:
        _begin_beat(installation)
    # Each `config_from_object` replaces the configuration, so this runs after every one.
    app.on_after_configure.connect(lambda sender, **_: _configure(installation), weak=False)
    if app.configured:
        _configure(installation)
    # As text, so that only workers import the worker's code.
    app.steps["worker"].add("celery_partitions.worker.bootstep:PartitionStep")
    signals.celeryd_init.connect(_prepare_worker, dispatch_uid="celery-partitions")
    add_installation(installation, ComputationTask)
    return app


def _begin_beat(installation: Installation) -> None:
    from celery_partitions.producer.beat import declare_beat  # noqa: PLC0415 - loads celery.beat, which most processes do not need

    installation.beat = True
    declare_beat()


def _prepare_worker(**arguments: Any) -> None:
    """Handles `celeryd_init`, which Celery sends in a worker's process only."""
    from celery_partitions.worker.bootstep import note_command_line  # noqa: PLC0415 - a producer must not load the worker

    note_command_line(**arguments)


def _configure(installation: Installation) -> None:
    """When the app's configuration is loaded: add the router, and find the broker."""
    conf = installation.app.conf
    if installation.resolved.settings.tracing:
        carry_traces(installation)
    if not conf.broker_url:
        installation.use_redis_url()
    before: Any = conf.task_routes or ()
    routes = list(before) if isinstance(before, list | tuple) else [before]
    if installation.route not in routes:
        conf.task_routes = [installation.route, *routes]
        if "amqp" in vars(installation.app):  # otherwise it reads the routes when it is created
            installation.app.amqp.flush_routes()
    if installation.by_default and not conf.task_queues:
        # Monitors and `celery purge` learn the queues from this list when no worker runs.
        default = conf.task_default_queue
        ours = [installation.queue(partition) for partition in partitions_and_ingress(installation.group.topology.served)]
        conf.task_queues = [Queue(default, Exchange(default), routing_key=default), *ours]
    # Celery only logs an error raised here; the first use of the settings raises it again.
    refuse_other_brokers(conf.broker_url)
