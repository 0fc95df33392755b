"""Checks of the partitions' servers (`PARTITIONS_URL`): each of them, and how evenly the partitions are spread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import redis

from celery_partitions.admin.checks import Check
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.outbox import MAX_ENTRIES, number_of
from celery_partitions.store.server import look_at_data_server, version_numbers
from celery_partitions.store.servers import Servers, what_there_is
from celery_partitions.store.slots import Address

#: The busiest server may have this many times its fair share.
MAX_SKEW = 1.5
#: Moves that a hint names.
NAMED = 3
#: The first versions that move a slot at once, with all its keys.
VALKEY_MOVES, REDIS_MOVES = (9, 0), (8, 4)


def examine_servers(servers: Servers, names: Names, partitions: int, more: Callable[[redis.Redis, Mapping[str, Any]], list[Check]]) -> Iterator[Check]:
    """The checks of all servers. `more`: the checks that are made of any server, with its INFO."""
    try:
        every = servers.all()
    except SERVER_ERRORS as error:
        yield Check("servers", "bad", f"{error}. Start the cluster, or correct PARTITIONS_URL")
        return
    infos: list[Mapping[str, Any]] = []
    for address, client in every.items():
        yield from _examine(servers, address, client, more, infos)
    moves_at_once = servers.url.is_cluster and all(map(can_move_at_once, infos))
    at = partitions_by_server(servers, names, partitions)
    if servers.url.is_cluster:
        yield judge_migration(moves_at_once)
    yield judge_spread(at, list(map(str, every)), loads(servers, names, partitions), moves_at_once)
    yield judge_outboxes(outbox_lengths(servers, names, partitions))
    before, (written, empty) = applied_tails(servers, names, partitions), written_tails(servers, names, partitions)
    yield judge_chains(before, written, empty, applied_tails(servers, names, partitions))


def _examine(servers: Servers, address: Address, client: redis.Redis, more: Callable[[redis.Redis, Mapping[str, Any]], list[Check]], infos: list[Mapping[str, Any]]) -> Iterator[Check]:
    subject = f"server {address}"
    try:
        info: dict[str, Any] = client.info()
        infos.append(info)
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


def ask_each(servers: Servers, partitions: list[str], ask: Callable[[Any, str], object]) -> list[tuple[str, Any]]:
    """Each partition with an answer of its server, or with an error. `ask`: adds one command to a pipeline."""
    with what_there_is(servers) as pipe:
        for partition in partitions:
            ask(pipe, partition)
        return list(zip(partitions, pipe.execute(raise_on_error=False), strict=True))


def outbox_lengths(servers: Servers, names: Names, partitions: int) -> dict[str, int]:
    """Queue → how many commits have something for other servers that is not sent, or was just sent. Without partitions whose server is away."""
    answers = ask_each(servers, partitions_and_ingress(partitions), lambda pipe, one: pipe.llen(names.outbox(one)))
    return {names.queue_name(partition): count for partition, count in answers if isinstance(count, int)}


def judge_outboxes(lengths: Mapping[str, int]) -> Check:
    """Whether what commits send to other servers arrives. What was sent stays for about a second."""
    most = max(lengths, key=lambda queue: lengths[queue], default="")
    if not most or lengths[most] <= MAX_ENTRIES // 2:
        return Check("outboxes", "ok", "what commits send to other servers arrives")
    text = f"{lengths[most]:,} commits of {most} have something for other servers that does not arrive"
    return Check("outboxes", "bad", f"{text}. The log of its worker says which server refuses it, and what to do")


def can_move_at_once(info: Mapping[str, Any]) -> bool:
    """Whether a server moves a slot with all its keys at once (atomic slot migration), by its INFO."""
    if "valkey_version" in info:
        return version_numbers(str(info["valkey_version"])) >= VALKEY_MOVES
    return version_numbers(str(info.get("redis_version", "0"))) >= REDIS_MOVES


def judge_migration(at_once: bool) -> Check:
    """Whether slots can be moved while messages come."""
    if at_once:
        return Check("slots", "ok", "they can be moved while messages come: the servers move a slot at once")
    text = "the servers move a slot key by key (Valkey before 9.0, Redis before 8.4): its partition waits meanwhile, and a large key stops both servers"
    return Check("slots", "ok", f"{text}. Move slots only while few messages come, or upgrade")


def loads(servers: Servers, names: Names, partitions: int) -> dict[str, int]:
    """Partition → how many messages it has processed. Without partitions whose server is away."""
    answers = ask_each(servers, [str(number) for number in range(partitions)], lambda pipe, one: pipe.hget(names.meta(one), "processed"))
    return {partition: int(count or 0) for partition, count in answers if not isinstance(count, Exception)}


def judge_spread(by_server: Mapping[str, list[str]], servers: list[str], processed: Mapping[str, int], moves_at_once: bool) -> Check:
    """Whether each server has its share of partitions, and of the messages that they have processed. Slots are given by the partitions' names,
    so a few partitions are spread unevenly."""
    at = {server: by_server.get(server, []) for server in servers}
    counts = ", ".join(f"{server} has {len(found)}" for server, found in sorted(at.items(), key=lambda one: -len(one[1])))
    by_count = better_moves(at, dict.fromkeys([one for found in at.values() for one in found], 1))
    by_load = better_moves(at, processed)
    moves = by_load or by_count
    if not moves:
        return Check("spread", "ok", f"partitions: {counts}")
    total = sum(processed.values())
    busiest = max(at, key=lambda server: sum(processed.get(one, 0) for one in at[server]))
    share = f"; {busiest} has processed {sum(processed.get(one, 0) for one in at[busiest]) / total:.0%} of the messages" if by_load and total else ""
    what = "; ".join(f"partition {one}'s slot to {target}" for one, target in moves)
    if moves_at_once:
        fix = f"Move {what} (CLUSTER KEYSLOT tells the slot, CLUSTER MIGRATESLOTS moves it), or use more partitions"
    else:
        fix = f"Use more partitions. Moving slots would help ({what}), but not under load: see the check of slots"
    return Check("spread", "warn", f"partitions: {counts}{share}. {fix}")


def better_moves(at: Mapping[str, list[str]], weights: Mapping[str, int]) -> list[tuple[str, str]]:
    """Moves (partition, server) that give the busiest server less to do, if it has much more than its share."""
    left = {server: list(found) for server, found in at.items()}
    sums = {server: sum(weights.get(one, 0) for one in found) for server, found in left.items()}
    fair = sum(sums.values()) / max(1, len(sums))
    moves: list[tuple[str, str]] = []
    while len(moves) < NAMED and sums and max(sums.values()) > MAX_SKEW * fair:
        busiest, idlest = max(sums, key=sums.__getitem__), min(sums, key=sums.__getitem__)
        gap = sums[busiest] - sums[idlest]
        # The partition that brings the two closest to each other. One that has nearly everything would only move the trouble.
        fitting = [one for one in left[busiest] if 0 < weights.get(one, 0) < gap]
        if not fitting:
            break
        best = min(fitting, key=lambda one: abs(gap / 2 - weights[one]))
        left[busiest].remove(best)
        left[idlest].append(best)
        sums[busiest] -= weights[best]
        sums[idlest] += weights[best]
        moves.append((best, idlest))
    return moves


Chain = tuple[str, str]


def applied_tails(servers: Servers, names: Names, partitions: int) -> dict[Chain, str]:
    """(source, target) → the tail of the last entry that the target has applied. Without targets whose server is away."""
    answers = ask_each(servers, partitions_and_ingress(partitions), lambda pipe, one: pipe.hgetall(names.received(one)))
    pairs = [(target, tails) for target, tails in answers if isinstance(tails, dict)]
    return {(source.decode(), target): tail.decode() for target, tails in pairs for source, tail in tails.items()}


def written_tails(servers: Servers, names: Names, partitions: int) -> tuple[dict[Chain, str], set[str]]:
    """(source, target) → the tail of the last entry that was written; and the sources whose outboxes are empty. Without sources whose server is
    away."""
    every = partitions_and_ingress(partitions)
    with what_there_is(servers) as pipe:
        for partition in every:
            pipe.hgetall(names.outbox_tails(partition))
            pipe.exists(names.outbox(partition))
        answers = pipe.execute(raise_on_error=False)
    found = [(source, tails, exists) for source, tails, exists in zip(every, answers[::2], answers[1::2], strict=True) if isinstance(tails, dict)]
    written = {(source, target.decode()): tail.decode() for source, tails, _ in found for target, tail in tails.items()}
    return written, {source for source, _, exists in found if exists == 0}


def judge_chains(before: Mapping[Chain, str], written: Mapping[Chain, str], empty: Collection[str], after: Mapping[Chain, str]) -> Check:
    """Whether each target has applied what its source has written, and nothing else. Work goes on meanwhile: `before` is what targets had applied
    before `written` and `empty` were read, `after` what they had applied afterwards."""
    wrong = []
    for (source, target), tail in written.items():
        had, has = before.get((source, target), ""), after.get((source, target))
        if number_of(had) > number_of(tail):
            wrong.append(f"{target} has applied entry {number_of(had)} of {source}, which has written only {number_of(tail)}: {source} has lost data")
        elif number_of(had) == number_of(tail) and had != tail:
            wrong.append(f"{target} has applied another entry {number_of(had)} than {source} has written: one of them has lost data")
        elif has is not None and source in empty and number_of(has) < number_of(tail):
            wrong.append(f"{target} lacks entries {number_of(has) + 1} to {number_of(tail)} of {source}, which {source} no longer has: {target} has lost data")
    if not wrong:
        return Check("histories", "ok", "servers that send to each other have the same history")
    text = "; ".join(wrong[:NAMED])
    return Check("histories", "bad", f"{text}. Messages between them wait, or were lost. The log of the source's worker says how to go on")
