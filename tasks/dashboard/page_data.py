"""The data of the partition page and the key page. Blocks, so it runs in Flower's executor. Returns plain values, also used as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from itertools import islice
from typing import Any, cast

import msgspec

from celery_partitions.admin.computations import computations_of
from celery_partitions.admin.documents import json_key, json_message, json_parked
from celery_partitions.admin.hot_keys import oldest_of
from celery_partitions.admin.overview_json import row_of
from celery_partitions.admin.state_json import plain_value
from celery_partitions.admin.timers import timers_in, timers_in_partition
from celery_partitions.admin.watcher import Watcher
from celery_partitions.dashboard.tree import tree_of
from celery_partitions.model.keys import key_bytes, key_text
from celery_partitions.model.message_key import key_in
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.measurements import read_recent_commits
from celery_partitions.store.names import INGRESS
from celery_partitions.store.parked_keys import read_mailbox
from celery_partitions.store.scripts import digest_of

#: Messages shown in one list.
MAX_MESSAGES = 50
#: How many of a queue's oldest messages are searched for one key, or for the hottest keys.
SAMPLED_MESSAGES = 1_000
#: How many states are drawn at random from each hash to find large ones.
SAMPLED_STATES = 500
#: A larger state is shown only as a tree, which is bounded, and cannot be edited as JSON.
MAX_STATE_BYTES = 500_000
MAX_KEYS = 10
MAX_PARKED = 100
#: How many of a partition's next delayed messages and timers are looked at.
MAX_TIMERS = 50


def look_at_partition(watch: Watcher, installation: Installation, partition: str) -> dict[str, Any]:
    """A partition, or the ingress: its row, waiting messages, last commits, and its hottest, largest and parked keys."""
    overview = watch.look()
    group = installation.group
    row = next(one for one in overview.partitions if one.partition == partition)
    raws, known = list(oldest_of(group.client, group.names.queue(partition), SAMPLED_MESSAGES)), installation.by_task
    keys = [key_in(raw, known) for raw in raws]
    counts = Counter(one for one in keys if one is not None)
    parked = list(islice(group.parked_keys.of_partition("ingress" if partition == INGRESS else int(partition)), MAX_PARKED))
    return {
        **row_of(row, watch.history, watch.attention.words),
        "at": overview.at,
        "sampled": len(raws),
        "hottest": [
            {"computation": name, **json_key(key), "messages": count}
            for (name, key), count in counts.most_common(MAX_KEYS)
        ],
        "largest": largest_states(installation, partition),
        "timers": [] if partition == INGRESS else timers_json(installation, partition),
        "parked_keys": [json_parked(one) for one in sorted(parked, key=lambda one: one.since)],
        "messages": [
            {**json_message(raw), **({"key": None} if found is None else json_key(found[1]))} for raw, found in zip(raws[:MAX_MESSAGES], keys, strict=False)
        ],
        "commits": [msgspec.structs.asdict(one) for one in read_recent_commits(group.client, group.names, partition)],
    }


def timers_json(installation: Installation, partition: str) -> list[dict[str, Any]]:
    """The timers of a partition that are due next, as far as they are among the first delayed messages."""
    found, _ = timers_in_partition(installation.group.states, installation.by_task, partition, limit=MAX_TIMERS)
    return [{**json_key(one.key), **asdict(one.timer)} for one in found]


def largest_states(installation: Installation, partition: str) -> list[dict[str, Any]]:
    """The largest states of a partition, among some hundred random states of each computation (all of them if there are fewer)."""
    group = installation.group
    client, rows = group.client, []
    for name in computations_of(installation.group):
        states = group.names.states(partition, name)
        keys = cast(list[bytes], client.hrandfield(states, SAMPLED_STATES))
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hstrlen(states, cast(str, key))
            sizes = pipe.execute()
        rows += [(size, name, key_text(key)) for key, size in zip(keys, sizes, strict=True)]
    largest = sorted(rows, reverse=True)[:MAX_KEYS]
    return [{"computation": name, **json_key(key), "bytes": size} for size, name, key in largest]


def look_at_key(watch: Watcher, installation: Installation, key: str) -> dict[str, Any]:
    """A key, an own line, or a task's line: its partition and owner, its state in each computation, and its waiting messages."""
    group = installation.group
    partition = group.parked_keys.partition(key)
    overview = watch.look()
    at = next(one for one in overview.partitions if one.partition == partition)
    names, client = group.names, group.client
    parked = next(iter(group.parked_keys.of_key(key)), None)
    mailbox = read_mailbox(client, names, partition, parked.key, MAX_MESSAGES)[0] if parked is not None else []
    raws, known = list(oldest_of(client, names.queue(partition), SAMPLED_MESSAGES)), installation.by_task
    waiting = [raw for raw in raws if (key_in(raw, known) or ("", None))[1] == key]
    return {
        **json_key(key),
        "partition": int(partition) if partition != INGRESS else partition,
        "queue": at.status.queue,
        "owner": at.status.owner,
        "paused": at.status.paused,
        "at": overview.at,
        "states": [_state(installation, name, key) for name in with_state(installation, key)],
        "stateless": [name for name in stateful(installation) if not _has_state(installation, name, key)],
        "timeline": [msgspec.to_builtins(row) for row in installation.watch_key(key).past()],
        "timeline_is_on": installation.settings.timeline_bytes > 0,
        "queue_length": at.status.length,
        "looked_at": len(raws),
        "waiting": len(waiting),
        "messages": [json_message(raw) for raw in waiting[:MAX_MESSAGES]],
        "parked": None
        if parked is None
        else {**json_parked(parked), "messages": [json_message(raw) for raw in mailbox]},
    }


def stateful(installation: Installation) -> list[str]:
    """The computations of this process that keep states."""
    return sorted(one.name for one in installation.computations.values() if one.state is not None)


def with_state(installation: Installation, key: str) -> list[str]:
    """The computations that have a state for a key."""
    names = {*computations_of(installation.group), *stateful(installation)}
    return [name for name in sorted(names) if _has_state(installation, name, key)]


def _has_state(installation: Installation, name: str, key: str) -> bool:
    group = installation.group
    partition = str(installation.group.topology.partition_of(key))
    return bool(group.client.hexists(group.names.states(partition, name), cast(str, key_bytes(key))))


def _state(installation: Installation, name: str, key: str) -> dict[str, Any]:
    """The state with its types if this process has the code and may unpickle it, else the facts about its bytes."""
    group = installation.group
    computation = installation.by_task.get(name)
    found: dict[str, Any] = {"computation": name, "type": None, "state": None, "tree": None, "digest": "", "error": ""}
    found |= {"whole": False, "timers": []}
    meta = group.states.meta(name, key, () if computation is None else computation.formerly)
    found |= {"bytes": None, "form": None, "verified": None} if meta is None else asdict(meta)
    if computation is None or computation.state is None:
        return {**found, "error": "this process does not have the computation, so it does not unpickle the state"}
    seen = group.state_editor.see(computation, key)
    found |= {"digest": "" if seen.stored is None else digest_of(seen.stored), "error": seen.error}
    if not seen.error:
        found["timers"] = [asdict(one) for one in timers_in(group.states, computation, seen.stored)]
    if seen.state is not None:
        found |= {"type": type(seen.state).__qualname__, "tree": asdict(tree_of(seen.state))}
        found["whole"] = len(seen.stored or b"") <= MAX_STATE_BYTES
        found["state"] = plain_value(seen.plain) if found["whole"] else None
    return found
