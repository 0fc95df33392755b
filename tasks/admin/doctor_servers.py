"""Checks of the partitions' servers (`PARTITIONS_URL`): each of them, and how evenly the partitions are spread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import redis

from celery_partitions.admin.checks import Check
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.outbox import MAX_ENTRIES
from celery_partitions.store.server import look_at_data_server
from celery_partitions.store.servers import Servers, what_there_is
from celery_partitions.store.slots import Address

#: The fullest server may have this many times the partitions of the emptiest.
MAX_SKEW = 2
#: Moved partitions that a hint names.
NAMED = 3


def examine_servers(servers: Servers, names: Names, partitions: int, more: Callable[[redis.Redis, Mapping[str, Any]], list[Check]]) -> Iterator[Check]:
    """The checks of all servers. `more`: the checks that are made of any server, with its INFO."""
    try:
        every = servers.all()
    except SERVER_ERRORS as error:
        yield Check("servers", "bad", f"{error}. Start the cluster, or correct PARTITIONS_URL")
        return
    for address, client in every.items():
        yield from _examine(servers, address, client, more)
    yield judge_spread(partitions_by_server(servers, names, partitions), len(every))
    yield judge_outboxes(outbox_lengths(servers, names, partitions))


def _examine(servers: Servers, address: Address, client: redis.Redis, more: Callable[[redis.Redis, Mapping[str, Any]], list[Check]]) -> Iterator[Check]:
    subject = f"server {address}"
    try:
        info: dict[str, Any] = client.info()
        findings = look_at_data_server(client, servers.url.is_cluster)
        checks = [Check(subject, "bad" if one.refuse else "warn", one.text) for one in findings]
        checks += [Check(subject, one.verdict, one.text) for one in more(client, info) if one.verdict != "ok"]
        if servers.url.is_cluster and b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            checks.append(Check(subject, "bad", "it says that the cluster is down. See CLUSTER INFO and CLUSTER NODES there"))
    except SERVER_ERRORS as error:
        yield Check(subject, "bad", f"not reachable: {str(error).rstrip('.')}. Its partitions wait until it answers, or a replica takes its place")
        return
    except redis.ResponseError as error:
        yield Check(subject, "bad", f"refuses a command: {str(error).rstrip('.')}")
        return
    yield from checks or [Check(subject, "ok", f"Redis {info.get('redis_version')}; nothing to change")]


def partitions_by_server(servers: Servers, names: Names, partitions: int) -> dict[str, list[str]]:
    """Server → its partitions."""
    found: dict[str, list[str]] = {}
    for number in range(partitions):
        found.setdefault(servers.address(names.queue(str(number))), []).append(str(number))
    return found


def outbox_lengths(servers: Servers, names: Names, partitions: int) -> dict[str, int]:
    """Queue → how many commits have something for other servers that is not sent, or was just sent. Without partitions whose server is away."""
    every = partitions_and_ingress(partitions)
    with what_there_is(servers) as pipe:
        for partition in every:
            pipe.llen(names.outbox(partition))
        answers = pipe.execute(raise_on_error=False)
    return {names.queue_name(partition): count for partition, count in zip(every, answers, strict=True) if isinstance(count, int)}


def judge_outboxes(lengths: Mapping[str, int]) -> Check:
    """Whether what commits send to other servers arrives. What was sent stays for about a second."""
    most = max(lengths, key=lambda queue: lengths[queue], default="")
    if not most or lengths[most] <= MAX_ENTRIES // 2:
        return Check("outboxes", "ok", "what commits send to other servers arrives")
    text = f"{lengths[most]:,} commits of {most} have something for other servers that does not arrive"
    return Check("outboxes", "bad", f"{text}. The log of its worker says which server refuses it, and what to do")


def judge_spread(by_server: Mapping[str, list[str]], servers: int) -> Check:
    """Whether each server has about as many partitions. Their slots are given by their names, so a few partitions are spread unevenly."""
    counts = sorted(((len(found), server) for server, found in by_server.items()), reverse=True)
    text = ", ".join(f"{server} has {count}" for count, server in counts)
    empty = servers - len(by_server)
    most, least = counts[0][0], 0 if empty else counts[-1][0]
    if most <= MAX_SKEW * least or most <= 2:
        return Check("spread", "ok", f"partitions: {text}")
    extra = by_server[counts[0][1]][:NAMED]
    fix = f"Move slots, for example those of partitions {', '.join(extra)} (CLUSTER KEYSLOT shows them), or use more partitions"
    return Check("spread", "warn", f"partitions: {text}{f', {empty} without any' if empty else ''}. {fix}")
