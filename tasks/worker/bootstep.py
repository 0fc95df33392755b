"""The boot step: starts and stops the partition threads of a Celery worker.

It belongs to the worker's blueprint, not the consumer's: Celery restarts its consumer after each lost connection, and that must
not release the partitions. Workers that do not serve partitions are unchanged.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import click
import redis
from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import ImproperlyConfigured, WorkerShutdown
from celery.utils.nodenames import default_nodename, nodesplit
from celery.worker import state as worker_state
from kombu.entity import Queue

from celery_partitions.admin.status import worker_id
from celery_partitions.model.errors import DeclarationError, SetupError, describe
from celery_partitions.model.revocations import Revocations
from celery_partitions.producer.beat import check_beat, plan_runs
from celery_partitions.producer.bulk import SendInterrupted
from celery_partitions.results.backend import check_backend
from celery_partitions.results.recorder import may_follow
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import installation_of
from celery_partitions.store.leases import Share, remember_computations
from celery_partitions.store.names import INGRESS
from celery_partitions.store.server import look_at_server
from celery_partitions.store.topology import agree_on_topology
from celery_partitions.store.worker_code import WorkerCode
from celery_partitions.worker.bystander import warn_if_nobody_computes
from celery_partitions.worker.call_turns import begin_calls
from celery_partitions.worker.calls import LifespanFailed
from celery_partitions.worker.consumer import make_patient
from celery_partitions.worker.control import list_owned_queues
from celery_partitions.worker.garbage import collect_seldom
from celery_partitions.worker.lease_keeper import LeaseKeeper
from celery_partitions.worker.logs import begin_with_json, collect_celerys_lines, escape_celerys_lines
from celery_partitions.worker.loop import PartitionLoop
from celery_partitions.worker.measurer import Measurer
from celery_partitions.worker.metrics import MetricsServer, serve_metrics
from celery_partitions.worker.parts import worker_parts
from celery_partitions.worker.plain_tasks import PlainTaskRunner
from celery_partitions.worker.process_replacement import is_stopping
from celery_partitions.worker.queue_guard import keep_kombu_away
from celery_partitions.worker.reports import Reports
from celery_partitions.worker.sends import join_sends
from celery_partitions.worker.signing import check_signing
from celery_partitions.worker.tracing import check_tracing
from celery_partitions_config.settings import SettingsError

logger = logging.getLogger("celery.worker.partitions")

#: The pause between two attempts to reach Redis when the worker starts.
STARTUP_BACKOFF_SECONDS = 1.0


def note_command_line(sender: Any = None, instance: Any = None, options: Any = None, **_: Any) -> None:
    """Handle `celeryd_init`: keep the command line's options, and give each process on a host its own node name."""
    instance.partition_options = options or {}
    installation = installation_for(instance)
    if installation is None:
        return
    for queue in _listed(instance.partition_options.get("queues")):
        # Declare our queues: with `task_create_missing_queues = False` Celery would reject them.
        if (partition := installation.group.names.partition_of_queue(queue)) is not None and queue not in instance.app.amqp.queues:
            instance.app.amqp.queues.add(installation.queue(partition))
    if requested_partitions(installation, instance) is None:
        return
    escape_celerys_lines()
    if installation.settings.log_format == "json":
        collect_celerys_lines()
        begin_with_json(instance)
    if instance.hostname == default_nodename(None):
        name, host = nodesplit(instance.hostname)
        instance.hostname = f"{name}-{uuid.uuid4().hex[:6]}@{host}"


def _note_queues(installation: Installation, worker: Any) -> None:
    """For a worker that no command line started, such as that of `celery.contrib.testing`: serve the partitions whose queues it would consume."""
    names = installation.group.names
    ours = [name for name in worker.app.amqp.queues.consume_from if names.partition_of_queue(name) is not None]
    worker.partition_options = {"queues": ours, "concurrency": worker.concurrency}


def installation_for(worker: Any) -> Installation | None:
    """The installation that a worker serves: the one passed to it (a sink's), else its app's."""
    given: Installation | None = getattr(worker, "partition_options", {}).get("partition_installation")
    return installation_of(worker.app) if given is None else given


def requested_partitions(installation: Installation, worker: Any) -> tuple[str, ...] | None:
    """The partitions that a worker is pinned to; `()` for a share of all; None if it serves no partitions."""
    options = getattr(worker, "partition_options", {})
    names = installation.group.names
    excluded = _listed(options.get("exclude_queues"))
    wanted = [partition for queue in _listed(options.get("queues")) if (partition := names.partition_of_queue(queue)) is not None]
    if names.group in excluded:
        return None
    if not options.get("queues"):
        return () if installation.by_default else None
    if not wanted:
        return None
    return () if INGRESS in wanted else tuple(sorted(set(wanted), key=int))


def _listed(names: Any) -> list[str]:
    return [part.strip() for part in names.split(",")] if isinstance(names, str) else list(names or ())


class WorkerRefused(ImproperlyConfigured, click.ClickException):  # type: ignore[misc]
    """The worker cannot start with these options. The command line shows only the text and exits with 1."""

    def __init__(self, text: str) -> None:
        click.ClickException.__init__(self, text)


class PartitionStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the lease keeper and the loop, and stops them warm or cold, as the worker stops."""

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.installation = installation_for(worker)
        if self.installation is not None and not hasattr(worker, "partition_options"):
            _note_queues(self.installation, worker)
        self.partitions = None if self.installation is None else requested_partitions(self.installation, worker)
        self.enabled = self.partitions is not None
        if self.installation is not None and not self.enabled:
            warn_if_nobody_computes(self.installation, worker.partition_options)
        # In a worker without partitions, too. A sink's worker has an installation of its own.
        groups = [one.group.names for one in (self.installation, installation_of(worker.app)) if one is not None]
        keep_kombu_away(worker.app, lambda queue: any(names.is_for_partition_workers(queue) for names in groups))
        #: Warnings of `check_server`, which do not stop the worker.
        self.warnings: list[str] = []
        self.metrics: MetricsServer | None = None

    def create(self, worker: Any) -> PartitionStep:
        """Check the options and settings."""
        assert self.installation is not None
        assert self.partitions is not None
        _check_pool(worker)
        try:
            self.installation.resolved.check("workers")
            if self.installation.beat:
                check_beat(self.installation)
            unsigned = check_signing(self.installation)
            for computation in self.installation.computations.values():
                if computation.state is not None:
                    computation.state.versions.check(computation.state.cls)
            self.check_server()
        except (SetupError, SettingsError, DeclarationError) as error:
            raise WorkerRefused(str(error)) from error
        except (redis.RedisError, OSError):
            pass  # Redis is not reachable yet: `start` waits for it
        if unsigned is not None:
            logger.warning("partitions: %s", unsigned)
        for partition in self.partitions:
            if int(partition) >= self.installation.group.topology.served:
                raise WorkerRefused(
                    f"-Q {self.installation.group.names.queue_name(partition)}: no such partition. There are "
                    f"{self.installation.group.topology.served} partitions, numbered from 0 (PARTITIONS)"
                )
        list_owned_queues(self.owned)
        make_patient(worker, self.installation.group.client)
        return self

    def start(self, worker: Any) -> None:
        assert self.installation is not None
        assert self.partitions is not None
        installation, settings = self.installation, self.installation.settings
        self.wait_for_server(worker, self.check_server)
        for text in self.warnings:
            logger.warning("partitions: %s", text)
        identity = worker_id(worker.hostname, uuid.uuid4().hex[:8])
        self.measurer = Measurer(installation.group.client, installation.group.names, installation.by_task, identity)
        reports = Reports(
            worker.app,
            worker.hostname,
            settings.events_per_second,
            lambda: _events_wanted(worker),
            PlainTasks(worker.app, installation),
            self.measurer,
        )
        is_allowed = may_follow(worker.app, installation.group.names, settings.follow_up_queues)
        run_plain_task = PlainTaskRunner(worker, reports.dispatcher, is_allowed)
        revoked = Revocations(worker_state.revoked, worker_state.revoked_stamps)
        parts = worker_parts(installation, identity, reports, run_plain_task, revoked, node=worker.hostname)
        self.stalls = parts.stalls
        self.loop = PartitionLoop(installation, identity, parts)
        group = installation.group
        self.keeper = LeaseKeeper(
            settings, group.names, group.topology, identity, self.partitions, self.follow, self.introduce, self.loop_fails,
            tasks=partial(known_tasks, worker.app, installation), lacks=self.loop.lacks,
            code=WorkerCode.of(installation.computations.values()),
        )
        self.wait_for_server(worker, parts.follow_ups.prepare)
        try:
            self.loop.calls = begin_calls(self.loop, parts, worker.hostname)
        except LifespanFailed as failed:
            raise WorkerRefused(f"the lifespan given to install() raised {describe(failed.__cause__ or failed)}") from failed.__cause__
        except Exception as error:
            raise WorkerRefused(f"cannot start the thread for calls that wait: {describe(error)}") from error
        if self.loop.calls is not None:
            self.measurer.history.in_flight = self.loop.calls.in_flight.use
        join_sends(installation)
        self.loop.wake_keeper = self.keeper.wake
        collect_seldom()
        self.stalls.start()
        self.loop.start()
        self.keeper.start()
        if installation.beat:
            self.wait_for_server(worker, partial(plan_runs, installation))
            logger.info("partitions: runs the entries of beat_schedule")
        self.metrics = serve_metrics(installation, lambda: list(self.loop.owned_partitions))

    def wait_for_server(self, worker: Any, ask: Callable[[], object]) -> None:
        """Ask the server something. Wait while it does not answer or refuses, as Celery waits for its broker."""
        assert self.installation is not None
        logged = ""
        while True:
            try:
                ask()
            except (redis.RedisError, OSError, SendInterrupted) as error:
                if worker.app.conf.broker_connection_retry_on_startup is False:
                    raise
                if str(error) != logged:
                    logged = str(error)
                    logger.warning("partitions: cannot use Redis yet (%s); retrying until it works. The address comes from %s", error, self.installation.redis_source)
            else:
                return
            time.sleep(STARTUP_BACKOFF_SECONDS)
            if is_stopping():
                raise WorkerShutdown(0)

    def check_server(self) -> None:
        assert self.installation is not None
        check_tracing(self.installation)
        findings = look_at_server(self.installation.group.client)
        for finding in findings:
            if finding.refuse:
                raise SetupError(finding.text)
        self.installation.group.check()
        check_backend(self.installation)
        self.warnings = [finding.text for finding in findings]

    def follow(self, share: Share) -> None:
        """Pass on the worker's new share. The lease keeper calls this in its own thread."""
        self.measurer.follow(share)
        self.loop.follow(share)

    def loop_fails(self) -> bool:
        """Whether the loop cannot work on partitions now. The lease keeper calls this in its own thread."""
        return self.loop.faults.is_on

    def introduce(self) -> None:
        """Write the group's topology and computations to the server, before this worker takes anything from it."""
        assert self.installation is not None
        group = self.installation.group
        with suppress(redis.exceptions.OutOfMemoryError):  # a full server still has what was written before
            agree_on_topology(group.client, group.names, group.settings.partitions)
            remember_computations(group.client, group.names, self.installation.computations)

    def stop(self, worker: Any) -> None:
        """Warm shutdown: finish the batch, commit it and release the partitions. A second signal makes it cold."""
        if not self.running:
            return
        self.loop.finish()
        while self.loop.is_alive():
            self.loop.join(timeout=0.1)
            if worker_state.should_terminate not in (None, False):
                self.loop.drop()
                break
        self.leave()

    def terminate(self, worker: Any) -> None:
        """Cold shutdown: drop the batch and release the partitions."""
        if not self.running:
            return
        self.loop.drop()
        self.leave()

    def leave(self) -> None:
        self.keeper.leave()
        self.stalls.end()
        if self.metrics is not None:
            self.metrics.close()

    @property
    def running(self) -> bool:
        return hasattr(self, "loop") and isinstance(self.loop, threading.Thread)

    def info(self, worker: Any) -> dict[str, Any]:
        """For `inspect stats`."""
        return {"partitions": self.owned_queues()}

    def owned(self) -> list[Queue]:
        """The queues of `owned_queues`, for `inspect active_queues`."""
        assert self.installation is not None
        partitions = [self.installation.group.names.partition_of_queue(name) for name in self.owned_queues()]
        return [self.installation.queue(partition) for partition in partitions if partition is not None]

    def owned_queues(self) -> list[str]:
        """The names of the queues whose partitions this worker owns now."""
        if not self.running or self.installation is None:
            return []
        return [self.installation.group.names.queue_name(partition) for partition in list(self.loop.owned_partitions)]


class PlainTasks:
    """The names of the app's Celery tasks that are not computations. Tasks registered later are included."""

    def __init__(self, app: Any, installation: Installation) -> None:
        self.tasks, self.computations = app.tasks, installation.computations

    def __contains__(self, name: object) -> bool:
        return name in self.tasks and name not in self.computations


def known_tasks(app: Any, installation: Installation) -> list[str]:
    """The names of the app's tasks and computations, without Celery's own."""
    return [*installation.by_task, *(name for name in list(app.tasks) if not name.startswith("celery."))]


def _events_wanted(worker: Any) -> bool:
    dispatcher = getattr(getattr(worker, "consumer", None), "event_dispatcher", None)
    return bool(dispatcher and dispatcher.enabled)


def _check_pool(worker: Any) -> None:
    options = getattr(worker, "partition_options", {})
    concurrency = options.get("concurrency") or worker.app.conf.worker_concurrency or 1
    if not (isinstance(worker.pool_cls, type) and issubclass(worker.pool_cls, SoloPool)):
        pool = getattr(worker.pool_cls, "__module__", str(worker.pool_cls)).rpartition(".")[2]
        raise WorkerRefused(
            f"a partition worker needs the solo pool, but this one uses {pool}. Start it with -P solo -c 1, and start "
            "more workers for more parallelism"
        )
    if str(concurrency) != "1" or options.get("autoscale"):
        raise WorkerRefused(
            f"a partition worker runs one message at a time, but this one has a concurrency of {concurrency}. "
            "Start it with -P solo -c 1, and start more workers for more parallelism"
        )
