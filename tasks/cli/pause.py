"""`partitions pause`, `resume`, `drain` and `undrain`: stop work on a partition, move partitions off a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from celery_partitions.admin import drain as admin_drain
from celery_partitions.admin import pause as admin_pause
from celery_partitions.admin.workers import read_workers
from celery_partitions.cli.context import installation_in, who
from celery_partitions.cli.output import print_done, prints_facts
from celery_partitions.runtime.group import Group
from celery_partitions.store.names import INGRESS, partitions_and_ingress


def _queues(command: Callable[..., None]) -> Any:
    command = click.argument("queues", metavar="[QUEUE]...", nargs=-1)(command)
    return click.option("--all", "everything", is_flag=True, help="Every partition and the ingress.")(command)


@click.command(short_help="Pause partitions.")
@_queues
@prints_facts
def pause(context: click.Context, queues: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Pause partitions. QUEUE is a queue's name, a partition's number, or `ingress`.

    The worker finishes the current batch and keeps the partition. New messages wait in order. The partition stays paused
    until `resume`, even if workers restart.
    """
    _set_paused(context, queues, everything, admin_pause.pause, "paused", as_json)


@click.command(short_help="Resume paused partitions.")
@_queues
@prints_facts
def resume(context: click.Context, queues: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Resume paused partitions. QUEUE is a queue's name, a partition's number, or `ingress`."""
    _set_paused(context, queues, everything, admin_pause.resume, "resumed", as_json)


def _set_paused(
    context: click.Context, queues: tuple[str, ...], everything: bool, act: Callable[..., list[str]], what: str, as_json: bool
) -> None:
    group = installation_in(context).group
    group.check()
    changed = act(group.client, group.names, _chosen(group, queues, everything), by=who())
    done = [group.names.queue_name(partition) for partition in changed]
    print_done(as_json, {what: done}, f"{what}: {', '.join(done)}" if done else f"all of them were already {what}")


def _chosen(group: Group, queues: tuple[str, ...], everything: bool) -> list[str]:
    names, known = group.names, partitions_and_ingress(group.topology.served)
    if bool(queues) == everything:
        raise click.UsageError("name the queues or partitions, or pass --all")
    if everything:
        return known
    found = []
    for queue in queues:
        partition = queue if queue == INGRESS or queue.isdigit() else names.partition_of_queue(queue)
        if partition not in known:
            raise click.ClickException(
                f"{queue!r} is not a queue of this group. Its queues: {names.queue_name('0')} to {names.queue_name(known[-2])}, "
                f"and {names.queue_name(INGRESS)}"
            )
        found.append(partition)
    return list(dict.fromkeys(found))


@click.command(short_help="Move all partitions off a worker.")
@click.argument("node")
@prints_facts
def drain(context: click.Context, node: str, as_json: bool) -> None:
    """Make the worker NODE (as `workers` shows it) give up all its partitions after its current batch, and take no more.

    Other workers take them over immediately; without another worker the partitions wait. This lasts until `undrain` or until
    the worker stops. A restarted worker takes its share again.
    """
    _set_draining(context, node, admin_drain.drain, "drained", as_json)


@click.command(short_help="Let a drained worker take partitions again.")
@click.argument("node")
@prints_facts
def undrain(context: click.Context, node: str, as_json: bool) -> None:
    """Let the worker NODE take its share of the partitions again."""
    _set_draining(context, node, admin_drain.undrain, "no longer drained", as_json)


def _set_draining(
    context: click.Context, node: str, act: Callable[..., admin_drain.Answer], what: str, as_json: bool
) -> None:
    group = installation_in(context).group
    group.check()
    answer = act(group.client, group.names, node, by=who())
    if answer == "unknown":
        known = ", ".join(worker.node for worker in read_workers(group.client, group.names)) or "none"
        raise click.ClickException(f"no partition worker is named {node!r}. Workers: {known}")
    changed = answer == "ok"
    text = f"{node} is {what}" if changed else f"{node} is already {what}"
    print_done(as_json, {"node": node, "changed": changed}, text)
