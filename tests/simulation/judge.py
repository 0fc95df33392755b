"""Checks the data after every request that the simulated server executes, to find the one that breaks a promise.

History: a state contains the beginning of what was sent to its key, and never loses a number. Dead letters: each message
is either applied or becomes a dead letter, once. Leases: a token is issued to one worker, and only that worker commits.
"""

from __future__ import annotations

import base64
import copy
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.names import Names, partitions_and_ingress
from tests.simulation.flow import GATHERED, LIST, STREAM, fields_of_entry, id_of_output, number_of, outputs_of
from tests.simulation.server import Server, Session
from tests.support.history import check_history, check_history_so_far

#: (computation, key)
Place = tuple[str, str]


class Violation(AssertionError):
    """A broken promise other than the history of a key."""


#: The fields that go back when the server loses data. The owners of tokens do not: a token must never be issued again.
GOES_BACK = ("wanted", "applied", "forgotten", "dead", "broken", "put_out", "_outputs", "_seen", "_positions", "_tokens")


class Judge:
    """The schedule reports what it sends and does; the judge sees the rest in the keyspace."""

    def __init__(self, server: Server, names: Names, codec: StateCodec, computations: dict[str, Computation]) -> None:
        self.keyspace, self.names, self.codec, self.computations = server.keyspace, names, codec, computations
        self.partitions = [partition.encode() for partition in partitions_and_ingress(12)]
        #: The expected numbers of each state, in order, without dead letters.
        self.wanted: dict[Place, list[int]] = {}
        self.place_of: dict[int, Place] = {}
        self.applied: dict[Place, list[int]] = {}
        #: Numbers in states that an operator has deleted.
        self.forgotten: list[int] = []
        #: The number, or the message itself if it has none → its dead letters.
        self.dead: dict[int | bytes, set[bytes]] = {}
        self.broken: list[bytes] = []
        #: Numbers that operators wrote to states. No message has them.
        self.edits: set[int] = set()
        #: Key of the pipeline's last stage → the numbers applied there. Each must be in the stream.
        self.put_out: dict[str, list[int]] = {}
        #: How many elements of the stream and of the list were read, and their numbers by key.
        self._outputs: dict[str, Any] = {STREAM: 0, LIST: 0, "stream": {}, "windows": {}}
        self._seen: dict[Place, bytes] = {}
        self._tokens: dict[bytes, int] = {}
        self._given: dict[tuple[bytes, int], bytes] = {}
        self._positions: dict[bytes, int] = {}
        self._states = {
            names.states(partition.decode(), name).encode(): name for partition in self.partitions for name in computations
        }
        self._last = {names.states(partition.decode(), "last").encode() for partition in self.partitions}
        self._dead = {names.dead(partition.decode()).encode() for partition in self.partitions}
        self._meta = {names.meta(partition.decode()).encode(): partition for partition in self.partitions}

        #: Process and key → the number of the call that runs there outside of the loop.
        self.running: dict[tuple[str, str], int] = {}
        self.overlaps: list[str] = []

    # Reports of the schedule.

    def called(self, what: str, process: str, number: int) -> None:
        """A call outside of the loop begins or ends. A process never runs two of a key at once. `step` raises: an error here would be the call's."""
        place = process, self.place_of[number][1]
        if what == "begin":
            if place in self.running:
                self.overlaps.append(f"overlap at {place}: {number} began while {self.running[place]} ran")
            self.running[place] = number
        else:
            self.running.pop(place, None)

    def sent(self, name: str, key: str, number: int) -> None:
        self.place_of[number] = (name, key)
        self.wanted.setdefault((name, key), []).append(number)

    def sent_again(self, number: int) -> None:
        """A dead letter is put back at the end of its queue."""
        self.dead.pop(number)
        self.wanted[self.place_of[number]].append(number)

    def discarded(self, number: int) -> None:
        """An operator deleted a waiting message."""
        self.wanted[self.place_of[number]].remove(number)
        self.dead[number] = {b"discarded"}

    def edited(self, place: Place, number: int) -> None:
        """An operator is about to append a number to a state. It must keep its place."""
        self.wanted[place].insert(self._next_index(place), number)
        self.place_of[number] = place
        self.edits.add(number)

    def forgets(self, place: Place) -> None:
        """An operator is about to delete a state. Later messages start with a new one."""
        del self.wanted[place][: self._next_index(place)]
        self.forgotten += self.applied.pop(place, [])
        self._seen.pop(place, None)

    def _next_index(self, place: Place) -> int:
        applied = self.applied.get(place)
        return self.wanted[place].index(applied[-1]) + 1 if applied else 0

    def remember(self) -> dict[str, Any]:
        """The current knowledge, for `went_back`."""
        return copy.deepcopy({name: getattr(self, name) for name in GOES_BACK})

    def went_back(self, known: dict[str, Any]) -> None:
        """The server went back to the data of an earlier moment. Later messages count as never sent."""
        vars(self).update(copy.deepcopy(known))

    # Checks after each request.

    def look(self, session: Session | None = None) -> None:
        """Check what the request has written."""
        touched = self.keyspace.touched
        if not touched:
            return
        self.keyspace.touched = set()
        for key in sorted(touched & self._dead):
            self._look_at_dead_letters(key)
        for key in sorted(touched & self._states.keys()):
            self._look_at_states(key, self._states[key])
        if STREAM.encode() in touched or LIST.encode() in touched or touched & self._last:
            self._look_at_outputs()
        if session is not None:
            for key in sorted(touched & self._meta.keys()):
                self._look_at_position(key, self._meta[key], session)
        for key in sorted(touched & self._meta.keys()):
            self._look_at_lease(key, self._meta[key])

    def _look_at_states(self, hash_key: bytes, name: str) -> None:
        for field, stored in self.keyspace.data.get(hash_key, {}).items():
            place = (name, field.decode())
            if self._seen.get(place) == stored:
                continue
            self._seen[place] = stored
            before, found = self.applied.get(place, []), self.codec.load(self.computations[name], place[1], stored).numbers
            label = ":".join(place)
            if found[: len(before)] != before:
                raise Violation(f"loss at {label!r}: a state went back from {before} to {found}")
            for number in found[len(before) :]:
                if number in self.dead:
                    raise Violation(f"duplicate at {label!r}: {number} is applied, and a dead letter")
            if found != self.wanted.get(place, [])[: len(found)]:
                check_history_so_far(_labelled(self.wanted), {label: found})
            self.applied[place] = found
            for number in found[len(before) :]:
                if number not in self.edits:
                    self._applied(name, place[1], number)

    def _applied(self, name: str, key: str, number: int) -> None:
        """The outputs of the message must follow the earlier outputs of the key, in this order."""
        for output in outputs_of(name, key, number):
            self.sent(*output)
        if name == "last":
            self.put_out.setdefault(key, []).append(number)

    def _look_at_outputs(self, *, ends: bool = False) -> None:
        """The stream must contain the applied numbers, written together with the state. The list must contain their windows. On several servers
        both come later."""
        outputs, entries = self._outputs, self.keyspace.data.get(STREAM.encode(), [])
        for words in entries[outputs[STREAM] :]:
            output_id, key, number = fields_of_entry(words)
            outputs["stream"].setdefault(key, []).append(number)
            if output_id != id_of_output(number):
                raise Violation(f"output {number} has the id {output_id!r}")
        outputs[STREAM] = len(entries)
        if outputs["stream"] != self.put_out and not (self.names.is_spread and not ends and self._are_late()):
            keys = [key for key in self.put_out.keys() | outputs["stream"].keys() if self.put_out.get(key) != outputs["stream"].get(key)]
            key = min(keys)
            raise Violation(f"outputs of {key!r}: {self.put_out.get(key)} was applied, {outputs['stream'].get(key)} is in the stream")
        windows = self.keyspace.data.get(LIST.encode(), [])
        for element in reversed(windows[: len(windows) - outputs[LIST]]):
            numbers = json.loads(element)
            key = self.place_of[numbers[0]][1]
            gathered = outputs["windows"].setdefault(key, [])
            gathered += numbers
            if len(numbers) > GATHERED or gathered != self.put_out.get(key, [])[: len(gathered)]:
                raise Violation(f"windows of {key!r}: {gathered} was gathered from {self.put_out.get(key)}")
        outputs[LIST] = len(windows)

    def _are_late(self) -> bool:
        """Whether all that is missing in the stream is what comes last."""
        return all(numbers == self.put_out.get(key, [])[: len(numbers)] for key, numbers in self._outputs["stream"].items())

    def _look_at_dead_letters(self, hash_key: bytes) -> None:
        for dead_letter_id, row in self.keyspace.data.get(hash_key, {}).items():
            dead_letter: dict[str, Any] = json.loads(row)
            if dead_letter.get("in_place"):
                continue
            if dead_letter["reason"] == "unreadable-state":
                raise Violation(f"an undamaged state could not be read: {dead_letter['error']}")
            text = dead_letter["message_id"]
            number = None if text is None else number_of(text)
            what = number if number in self.place_of else base64.b64decode(dead_letter["raw"])
            assert what is not None
            dead_letters = self.dead.setdefault(what, set())
            if dead_letter_id in dead_letters:
                continue
            if dead_letters:
                raise Violation(f"duplicate: {what!r} has two dead letters, {sorted(dead_letters)} and {dead_letter_id!r}")
            dead_letters.add(dead_letter_id)
            if isinstance(what, int):
                place = self.place_of[what]
                if what in self.applied.get(place, ()) or what not in self.wanted[place]:
                    raise Violation(f"duplicate at {place}: {what} was applied, and is a dead letter")
                self.wanted[place].remove(what)

    def _look_at_position(self, key: bytes, partition: bytes, session: Session) -> None:
        commit_number = int(self.keyspace.data.get(key, {}).get(b"commit_number", b"0"))
        if commit_number == self._positions.get(partition, 0):
            return
        if commit_number != self._positions.get(partition, 0) + 1:
            raise Violation(f"the commit number of partition {partition!r} went from {self._positions.get(partition, 0)} to {commit_number}")
        self._positions[partition] = commit_number
        holder = self._given.get((partition, self._tokens.get(partition, 0)))
        if holder != session.owner.encode():
            raise Violation(f"lease: {session.owner} commits to partition {partition!r}, whose token belongs to {holder!r}")

    def _look_at_lease(self, key: bytes, partition: bytes) -> None:
        meta = self.keyspace.data.get(key, {})
        if b"token" not in meta:
            return
        token, holder = int(meta[b"token"]), meta.get(b"holder")
        if token < self._tokens.get(partition, 0):
            raise Violation(f"lease: the token of partition {partition!r} went back to {token}")
        self._tokens[partition] = token
        if holder is not None and self._given.setdefault((partition, token), holder) != holder:
            was = self._given[partition, token]
            raise Violation(f"lease: token {token} of partition {partition!r} was given to {was!r} and to {holder!r}")

    # Checks at the end.

    def is_drained(self) -> bool:
        """Nothing is queued, delayed or parked."""
        waiting = []
        for partition in map(bytes.decode, self.partitions):
            queue = self.names.queue(partition)
            waiting += [queue, *self.names.priority_lists(partition), self.names.outbox(partition)]
            waiting += [self.names.inbox(partition), self.names.delayed(partition), self.names.parked(partition)]
        return not any(name.encode() in self.keyspace.data for name in waiting)

    def check_end(self) -> None:
        """Check that every message was applied or is a dead letter, once, and was counted."""
        self.keyspace.touched |= self.keyspace.data.keys()
        self.look()
        self._look_at_outputs(ends=True)
        check_history(_labelled(self.wanted), _labelled(self.applied))
        for raw in self.broken:
            if raw not in self.dead:
                raise Violation(f"loss: {raw[:80]!r} is not a dead letter")
        if left := [key for key in self.keyspace.data if b":mailbox:" in key]:
            raise Violation(f"mailboxes that will never be read: {left}")
        for key in self._dead:
            for row in self.keyspace.data.get(key, {}).values():
                if json.loads(row).get("in_place"):
                    raise Violation(f"a dead letter is left of a message that was applied: {row[:200]!r}")
        lost_timers = self._lost_timers()
        for key, numbers in self.put_out.items():
            if self._outputs["windows"].get(key) != numbers and key not in lost_timers:
                raise Violation(f"loss: a timer of {key!r}: {self._outputs['windows'].get(key)} was gathered from {numbers}")
        history = [*self.forgotten, *(number for numbers in self.applied.values() for number in numbers)]
        by_stage = Counter(self.place_of[number][0] for number in history if number not in self.edits)
        windows = len(self.keyspace.data.get(LIST.encode(), []))
        timers = self._counted(b"emitted") - 2 * by_stage["first"] - by_stage["next"] - by_stage["last"] - windows
        applied = by_stage.total() + timers - len(lost_timers)
        if self._counted(b"processed") != applied:
            raise Violation(f"{applied} messages were applied, and {self._counted(b'processed')} were counted")

    def _counted(self, what: bytes) -> int:
        return sum(int(self.keyspace.data.get(meta, {}).get(what, b"0")) for meta in self._meta)

    def _lost_timers(self) -> list[str]:
        """The keys of timers that are dead letters, because their workers were killed."""
        found = []
        for key in self._dead:
            for row in self.keyspace.data.get(key, {}).values():
                dead_letter = json.loads(row)
                if dead_letter["task"] == "gather" and not dead_letter["message_id"].startswith("garbage"):
                    found.append(dead_letter["key"] or json.loads(base64.b64decode(dead_letter["raw"]))["headers"]["partition_key"])
        return found


def _labelled(numbers: dict[Place, list[int]]) -> dict[str, list[int]]:
    return {":".join(place): each for place, each in numbers.items() if each}


def check_shares(holders: Iterable[bytes], alive: set[str], partitions: int) -> str | None:
    """Why the shares are not fair; None if they are."""
    held = dict.fromkeys(alive, 0)
    for holder in holders:
        if holder.decode() not in held:
            return f"{holder!r} is gone, but owns a partition"
        held[holder.decode()] += 1
    if sum(held.values()) != partitions + 1:
        return f"{partitions + 1 - sum(held.values())} partitions have no owner"
    return None if max(held.values()) - min(held.values()) <= 1 else f"shares differ by more than one: {held}"
