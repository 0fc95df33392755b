"""The commands of `celery -A APP partitions`. Importing this module adds them to the group."""

from __future__ import annotations

from celery_partitions.cli.audit import audit
from celery_partitions.cli.beat import beat
from celery_partitions.cli.dead_letters import dead_letters
from celery_partitions.cli.ends import sink, source
from celery_partitions.cli.flower import flower
from celery_partitions.cli.health import attention, doctor
from celery_partitions.cli.keys import keys
from celery_partitions.cli.migrate import migrate
from celery_partitions.cli.parked import parked
from celery_partitions.cli.pause import drain, pause, resume, undrain
from celery_partitions.cli.policy import policy
from celery_partitions.cli.remove import remove
from celery_partitions.cli.resize import resize
from celery_partitions.cli.send import send
from celery_partitions.cli.settings import settings
from celery_partitions.cli.states import state, stored
from celery_partitions.cli.status import status, workers
from celery_partitions.cli.timers import expire, timers
from celery_partitions.cli.top import top
from celery_partitions.cli.transfer import export_group, import_group
from celery_partitions.cli.versions import versions
from celery_partitions.cli.watch import watch
from celery_partitions_config.command import partitions

__all__ = ["partitions"]

for command in (
    status,
    top,
    attention,
    doctor,
    settings,
    flower,
    workers,
    keys,
    watch,
    state,
    stored,
    timers,
    expire,
    beat,
    parked,
    dead_letters,
    pause,
    resume,
    drain,
    undrain,
    policy,
    audit,
    send,
    sink,
    source,
    versions,
    migrate,
    remove,
    resize,
    export_group,
    import_group,
):
    partitions.add_command(command)
