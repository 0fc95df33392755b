"""`celery -A APP partitions`: the group, and what stands in it. Each subject has a file of its own."""

from __future__ import annotations

import click

from tasks.cli.audit import audit
from tasks.cli.doctor import doctor
from tasks.cli.keys import keys
from tasks.cli.letters import dead_letters
from tasks.cli.parked import parked
from tasks.cli.pausing import drain, pause, resume, undrain
from tasks.cli.policy import policy
from tasks.cli.sending import send
from tasks.cli.source import source
from tasks.cli.states import state
from tasks.cli.status import status, workers
from tasks.cli.stored import stored
from tasks.cli.transfer import export_group, import_group


@click.group(name="partitions")
@click.pass_context
def partitions(context: click.Context) -> None:
    """See and work the partitions: status, states, keys, dead letters, pausing, files.

    Every command has --json. Exit codes: 0 done, 1 refused or not found, 2 wrong usage. What can't be undone asks first,
    and wants --yes where nobody can be asked.
    """


for command in (
    status,
    doctor,
    workers,
    keys,
    state,
    stored,
    parked,
    dead_letters,
    pause,
    resume,
    drain,
    undrain,
    policy,
    audit,
    send,
    source,
    export_group,
    import_group,
):
    partitions.add_command(command)
