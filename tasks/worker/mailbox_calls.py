"""Starts calls for messages in mailboxes: retries, the next messages of running keys, and all of them after a takeover.

Used by the loop's thread (`in_flight`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from heapq import heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING, cast

from celery_partitions.model.flushing import messages_to_read
from celery_partitions.model.halving import Halving
from celery_partitions.model.in_flight import MAX_OF_MAILBOX, beginning, is_behind_line, is_for_one_computation
from celery_partitions.model.items import Item, Reading, Work, read_batch
from celery_partitions.model.own_lines import key_and_computation
from celery_partitions.store.isolation import begin_isolated_try
from celery_partitions.store.parked_keys import read_mailboxes
from celery_partitions.store.scripts import digest_of
from celery_partitions.store.states import load_slots
from celery_partitions.worker.batch_reader import load_parked_of
from celery_partitions.worker.call_times import REFILL_SECONDS
from celery_partitions.worker.isolation import LeaseLost, verdict_on
from celery_partitions.worker.owned import OwnedPartition

if TYPE_CHECKING:
    from celery_partitions.worker.in_flight import InFlight

#: How many keys are started from their mailboxes in one turn.
MAX_STARTS = 500
#: After a second death, suspects run in groups of this size, about the square root of `PARTITIONS_CONCURRENCY`'s usual values. After the
#: first one they run all at once: it was probably no message that killed the worker, and slow calls must not wait for each other.
SUSPECTS_TOGETHER = 14


class MailboxCalls:
    """Made once per loop, if any computation waits."""

    def __init__(self, flight: InFlight) -> None:
        self.flight = flight

    def start(self, owned: OwnedPartition, reading: Reading, revoked: Container[str]) -> None:
        """Start calls for the mailboxes whose time has come: retries, the next messages of running keys, and all of them after a takeover."""
        flight = self.flight
        calls = flight.of(owned)
        keys = self.due(owned)
        if not keys:
            return
        alone = owned.to_isolate > 0
        longest = max(messages_to_read(flight.computations, owned.parked[key].task) for key in keys)
        found = read_mailboxes(flight.client, flight.names, owned.partition, keys, 1 if alone else max(longest, MAX_OF_MAILBOX))
        chosen: dict[str, list[Item]] = {}
        followed: set[str] = set()
        now = owned.server_now()
        items_of = {key: read_batch(raws, reading, now=now, revoked=revoked) for key, (raws, _) in found.items()}
        if not owned.knows_all_parked:
            load_parked_of(flight.client, flight.names, owned, list(chain.from_iterable(items_of.values())))
        for key, read in items_of.items():
            owned.mailbox_lengths[key] = length = found[key][1]
            moves = (number for number, item in enumerate(read) if is_behind_line(owned.own_lines, item, key))
            items = beginning(read[: next(moves, None)] if owned.own_lines else read, flight.waiting, owned.parked[key].size)
            if len(read) < length or not is_for_one_computation(read):
                followed.add(key)
            if any(isinstance(item, Work) for item in items):
                chosen[key] = items
            else:  # empty, or the loop's own work
                heappush(owned.dues, (cast(float, owned.parked[key].due), key))
        noted = self.isolate(owned, chosen) if alone and chosen else {}
        works = list(chain.from_iterable(chosen.values()))
        missing = owned.cache.missing(works)
        if missing:
            wanted = {name: (flight.computations[name], many) for name, many in missing.items()}
            owned.cache.add(load_slots(flight.client, flight.names, flight.codec, owned.partition, wanted))
        runs = []
        for place, items in chosen.items():
            record, key = owned.parked[place], next(item.key for item in items if isinstance(item, Work))
            run = flight.run_of(owned, key, items, attempt=record.attempt, place=place)
            run.waited_out = owned.has_waited_out(record, flight.settings.deploy_wait_seconds)
            run.waited = record.reason == "rate"
            run.noted = noted.get(place)
            run.together, run.halving = run.stage.flush is not None, Halving(record.size, record.suspects)
            run.is_followed = place in followed
            calls.runs[key] = run
            runs.append(run)
        for key in [key for key in calls.behind if key not in calls.runs]:  # what was to go before them is for the loop
            calls.note_free(owned, key)
        flight.start(calls, runs)

    def due(self, owned: OwnedPartition) -> list[str]:
        """The mailboxes to start now, as far as there is room: one of each key. They leave the heap."""
        flight = self.flight
        calls, now = flight.of(owned), owned.server_now()
        chosen: dict[str, str] = {}
        later: list[tuple[float, str]] = []
        begun: Counter[str] = Counter()
        while calls.dues and calls.dues[0][0] <= now and len(chosen) < MAX_STARTS:
            due, place = heappop(calls.dues)
            record = owned.parked.get(place)
            key = place if place in calls.runs else key_and_computation(place)[0]
            if record is None or record.due != due or chosen.get(key) == place:
                continue
            if key in calls.runs or key in chosen:
                calls.behind.setdefault(key, set()).add(place)
                continue
            if key in flight.abandoned:
                later.append((due, place))
                continue
            known = None if record.task is None else flight.computations.get(record.task)
            stage = None if known is None else flight.waiting(known)
            if stage is not None:
                if flight.room.free(stage, begun[stage.name]) <= 0 or not flight.room.has_bytes():
                    later.append((due, place))
                    if len(later) > MAX_STARTS:
                        break
                    continue
                begun[stage.name] += 1
            chosen[key] = place
        for one in later:
            heappush(calls.dues, one)
        if later and not chosen:
            calls.no_room_until = owned.clock() + REFILL_SECONDS
        return list(chosen.values())

    def isolate(self, owned: OwnedPartition, chosen: dict[str, list[Item]]) -> dict[str, str]:
        """Note in Redis which messages start now, because a worker died. Leaves in `chosen` those that may start together. A message that
        must not run, or that hung before, is left to the loop. Returns the digests of those beside which others may start, by key. Raises
        `LeaseLost`."""
        flight = self.flight
        calls = flight.of(owned)
        digests = [digest_of(items[0].raw) for items in chosen.values()]
        # With a limit below three, two deaths make a dead letter, so every message must run alone.
        largest, again = (MAX_STARTS, SUSPECTS_TOGETHER) if flight.settings.max_worker_crashes > 2 else (1, 1)
        if flight.suspects.others_run(calls) or calls.has_suspects:
            largest, again = largest if largest > 1 else 0, 0
        tried = begin_isolated_try(flight.client, flight.names, owned.lease, digests, largest, again)
        if tried is None:
            raise LeaseLost
        count = tried.count
        if count == 0:  # nothing else starts until the others have ended
            flight.suspects.wanted_by = calls
            calls.no_room_until = owned.clock() + REFILL_SECONDS
        elif verdict_on(tried, flight.settings, more=int(largest > 1)) is not None or tried.hang is not None:
            first = next(iter(chosen))
            heappush(owned.dues, (cast(float, owned.parked[first].due), first))
            del chosen[first]
            count = 0
        for key in list(chosen)[count:]:
            del chosen[key]
            calls.note_due(key, cast(float, owned.parked[key].due))
        if not chosen:
            return {}
        flight.suspects.add(calls)
        if not tried.has_history and largest > 1:
            return dict(zip(chosen, digests, strict=False))
        calls.noted = owned.trying = digests[:count]
        return {}
