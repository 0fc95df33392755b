"""`partitions pause`, `resume`, `drain` and `undrain`: work that rests, and workers that hand over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from celery_partitions.admin import drain as admin_drain
from celery_partitions.admin import pause as admin_pause
from celery_partitions.admin.workers import read_workers
from celery_partitions.cli.context import installation_in, who
from celery_partitions.cli.output import json_option, print_done, refusals
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.names import INGRESS, partitions_and_ingress


def _queues(command: Callable[..., None]) -> Any:
    command = click.argument("queues", metavar="[QUEUE]...", nargs=-1)(command)
    return click.option("--all", "everything", is_flag=True, help="Every partition, and the ingress.")(command)


@click.command(short_help="Let partitions rest.")
@_queues
@json_option
@click.pass_context
@refusals
def pause(context: click.Context, queues: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Let partitions rest: QUEUE is a queue's name, a partition's number, or `ingress`.

    The batch under way is the last one. Messages still come in, and wait in order; the worker keeps the partition. It stays
    paused, whatever workers come and go, until `resume`.
    """
    installation = installation_in(context)
    group = installation.group
    chosen = _chosen(installation, queues, everything)
    done = admin_pause.pause(group.client, group.names, chosen, by=who())
    _say(installation, as_json, "paused", done)


@click.command(short_help="Let paused partitions go on.")
@_queues
@json_option
@click.pass_context
@refusals
def resume(context: click.Context, queues: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Let paused partitions go on: QUEUE is a queue's name, a partition's number, or `ingress`."""
    installation = installation_in(context)
    group = installation.group
    chosen = _chosen(installation, queues, everything)
    done = admin_pause.resume(group.client, group.names, chosen, by=who())
    _say(installation, as_json, "resumed", done)


def _chosen(installation: Installation, queues: tuple[str, ...], everything: bool) -> list[str]:
    installation.group.check()
    known = partitions_and_ingress(installation.settings.partitions)
    if bool(queues) == everything:
        raise click.UsageError("name the queues or partitions, or say --all")
    if everything:
        return known
    found = []
    for queue in queues:
        partition = queue if queue == INGRESS or queue.isdigit() else installation.group.names.partition_of_queue(queue)
        if partition not in known:
            names = installation.group.names
            raise click.ClickException(
                f"{queue!r} is none of this group's queues: {names.queue_name('0')} to {names.queue_name(known[-2])}, "
                f"and {names.queue_name(INGRESS)}"
            )
        found.append(partition)
    return list(dict.fromkeys(found))


def _say(installation: Installation, as_json: bool, what: str, done: list[str]) -> None:
    queues = [installation.group.names.queue_name(partition) for partition in done]
    print_done(as_json, {what: queues}, f"{what}: {', '.join(queues)}" if queues else f"all of them were {what} already")


@click.command(short_help="Let a worker give all its partitions up.")
@click.argument("node")
@json_option
@click.pass_context
@refusals
def drain(context: click.Context, node: str, as_json: bool) -> None:
    """Let the worker NODE (as `workers` shows it) give all its partitions up after its batch, and take no more.

    Other workers take them over at once; when there is none they wait. It lasts until `undrain`, or until the worker ends: one
    that is started anew takes its share.
    """
    _set_draining(context, node, admin_drain.drain, "drained", as_json)


@click.command(short_help="Let it take its share again.")
@click.argument("node")
@json_option
@click.pass_context
@refusals
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
        raise click.ClickException(f"no worker of partitions is named {node!r}; there are: {known}")
    changed = answer == "ok"
    text = f"{node} is {what}" if changed else f"{node} is {what} already"
    print_done(as_json, {"node": node, "changed": changed}, text)
