"""Producers and operators: their actions take effect at once, and are reported to the judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.pause import pause, resume
from celery_partitions.admin.resize import Resize
from celery_partitions.admin.state_editor import StateEditor
from celery_partitions.model.errors import SetupError
from celery_partitions.store.names import INGRESS
from tests.simulation.application import PLAIN_TASK, raw_deed, raw_message
from tests.simulation.flow import SOURCE, number_of
from tests.simulation.judge import Place
from tests.simulation.scene import Scene


class Producers(Scene):
    """Send numbered messages on all ways to their queue, garbage, and plain tasks."""

    def push(self, queue: str, raw: bytes) -> None:
        self.server.outside(b"LPUSH", queue.encode(), raw)

    def send(self) -> None:
        """Send some messages to some keys. The messages of a key always take the same way."""
        for _ in range(self.random.choice((1, 1, 2, 6))):
            self.send_to(self.random.choice(self.keys))

    def send_to(self, key: str) -> None:
        name = SOURCE if self.random.random() < self.flow_share else self.random.choice(self.names_sent)
        self.numbers += 1
        self.judge.sent("first" if name == SOURCE else name, key, self.numbers)
        if name in self.batch_names and self.batch_random.random() < 0.05:
            self.spoilers.add(self.numbers)
        self.maybe_switch(key)
        self.push(self.way_of(key), raw_deed(name, key, self.numbers))
        self.world.note("--------- %d is sent to %s:%s by way of %s", self.numbers, name, key, self.way_of(key))

    def send_burst(self) -> None:
        """Send many messages to one key, and one to each other key. From now on many calls take long."""
        self.slow_rate, self.stays_slow = 0.3, True
        for key in [self.keys[0]] * 12 + self.keys[1:]:
            self.send_to(key)

    def send_poison_message(self) -> None:
        """Send a message that kills every process that runs it, until it is a dead letter."""
        if self.settings.max_worker_crashes:
            key = self.random.choice(self.keys)
            self.numbers += 1
            self.poison_messages.add(self.numbers)
            name = "waits" if "waits" in self.names_sent and self.call_random.random() < 0.5 else "record"
            if self.batch_names and self.batch_random.random() < 0.5:
                name = self.batch_random.choice(self.batch_names)
            self.judge.sent(name, key, self.numbers)
            self.push(self.way_of(key), raw_deed(name, key, self.numbers))
            self.log(f"{self.numbers}, a poison message, is sent to {key}", "poison sent")

    def resend(self) -> None:
        """A producer sends a message twice with the same id. The computation drops the second one."""
        if self.deduplicates:
            applied = [(place, n) for place, numbers in sorted(self.judge.applied.items()) for n in numbers]
            of_it = [(key, n) for (name, key), n in applied if name == "second" and n not in self.judge.edits]
            if of_it:
                key, number = self.random.choice(of_it)
                self.push(self.way_of(key), raw_deed("second", key, number))
                self.log(f"{number} is sent again", "resend")

    def maybe_switch(self, key: str) -> None:
        """The producer of a key may learn of a resize, at any time. One that sends to a wrong partition never does."""
        if self.resizes and self.keys.index(key) % 6 != 3 and self.random.random() < 0.3:
            topology = self.of_senders()
            if topology.epoch >= (0 if (known := self.known.get(key)) is None else known.epoch):
                self.known[key] = topology

    def way_of(self, key: str) -> str:
        """The list to which messages of the key are sent: its queue, the ingress, a wrong partition, or a priority list."""
        right = self.home_of(key)
        queue = self.names.queue(right)
        match self.keys.index(key) % 6:
            case 1:
                return self.names.queue(INGRESS)
            case 3:
                return self.names.queue(str((int(right) + 1) % self.settings.partitions))  # it never switches
            case 5:
                return self.names.priority_lists(right)[0]
            case _:
                return queue

    def send_delayed(self) -> None:
        self.numbers += 1
        key = f"delayed-{self.numbers}"
        due = self.world.now + self.random.choice((-1.0, 0.1, 1.0))
        self.judge.sent("record", key, self.numbers)
        self.push(self.names.queue(self.home_of(key)), raw_deed("record", key, self.numbers, eta=_iso(due)))
        self.log(f"{self.numbers} is sent, due in {due - self.world.now:.1f} s", "delayed")

    def send_garbage(self) -> None:
        self.numbers += 1
        raw = self.random.choice(
            (
                b"garbage %d" % self.numbers,
                raw_message("nobody's", [], f"garbage-{self.numbers}"),
                raw_message("record", ["no deed"], f"garbage-{self.numbers}"),
                raw_message("next", [{"key": "k", "number": 1}], f"garbage-{self.numbers}"),
                raw_message("gather", [1], f"garbage-{self.numbers}", partition_key=self.random.choice((7, None, {"base64": "*"}))),
            )
        )
        self.judge.broken.append(raw)
        self.push(self.names.queue(self.home_of(str(self.numbers))), raw)
        self.log("garbage is sent", "garbage")

    def send_plain_task(self) -> None:
        self.numbers += 1
        raw = raw_message(PLAIN_TASK, [], f"ordinary-{self.numbers}")
        self.plain_task.add(raw)
        self.push(self.names.queue(self.home_of(str(self.numbers))), raw)
        self.log("a plain task is sent", "plain_task")


class Operators(Producers):
    """The functions that the command line calls."""

    @property
    def parked_keys(self) -> ParkedKeys:
        self.group.follow(self.topology())
        return self.group.parked_keys

    @property
    def state_editor(self) -> StateEditor:
        self.group.follow(self.topology())
        return self.group.state_editor

    def some_place(self) -> Place | None:
        places = sorted(place for place in self.judge.applied if place[1] in self.keys)
        return self.random.choice(places) if places else None

    def resize(self) -> None:
        """An operator gives the group another number of partitions."""
        now = self.topology().partitions
        wanted = [number for number in (1, 2, 3, 4, 6, 9, 12) if number != now and (number % now == 0 or now % number == 0)]
        self._resize("resize", lambda resize: resize.begin(self.random.choice(wanted), by="me"))

    def abort(self) -> None:
        self._resize("abort", lambda resize: resize.abort(by="me"))

    def finish(self) -> None:
        """An operator ends a resize, after all producers have learned of it."""
        topology = self.topology()
        for key in self.keys:
            if self.keys.index(key) % 6 != 3:
                self.known[key] = self.of_senders()
        self._resize("finish", lambda resize: resize.finish(by="me", said=f"epoch {topology.epoch}"))

    def _resize(self, what: str, do: Callable[[Resize], object]) -> None:
        try:
            done = do(Resize(self.client, self.names, self.settings.partitions, settled_seconds=0.0))
        except SetupError as refusal:
            self.log(f"{what} is refused: {refusal}", f"{what} refused")
        else:
            self.log(f"{what}: {done}", what if done else f"{what} waits")

    def forget(self) -> None:
        if self.is_moving:
            return
        if (place := self.some_place()) is not None:
            self.log(f"an operator deletes the state of {place}", "forget")
            self.judge.forgets(place)
            editor = self.state_editor
            assert editor.delete(editor.see(self.computations[place[0]], place[1]), by="me") == "ok"

    def edit(self) -> None:
        """An operator appends to a state."""
        if self.is_moving:
            return
        if (place := self.some_place()) is not None:
            self.log(f"an operator edits the state of {place}", "edit")
            self.numbers += 1
            self.judge.edited(place, self.numbers)
            editor = self.state_editor
            seen = editor.see(self.computations[place[0]], place[1])
            assert seen.state is not None
            seen.state.numbers = [*seen.state.numbers, self.numbers]
            assert editor.set(seen, seen.state, by="me") == "ok"

    def pause(self) -> None:
        partition = str(self.random.randrange(self.topology().served))
        self.log(f"an operator pauses partition {partition}", "pause")
        pause(self.client, self.names, [partition], by="me")

    def resume(self) -> None:
        """Resume paused partitions, and retry held keys."""
        partitions = [str(number) for number in range(self.topology().served)]
        if resumed := resume(self.client, self.names, partitions, by="me"):
            self.log(f"an operator resumes partitions {resumed}", "resume")
        if self.is_moving:
            return
        for parked in list(self.parked_keys.all()):
            if parked.due is None:
                self.log(f"an operator retries the held {parked.key}", "release")
                assert self.parked_keys.retry(parked.key, by="me") == "ok"

    def change_parked(self) -> None:
        """An operator retries, skips or discards the first message of a parked key."""
        if self.is_moving:
            return
        parked = sorted(self.parked_keys.all(), key=lambda one: one.key)
        if parked:
            chosen = self.random.choice(parked)
            key = chosen.key
            keys, action = self.parked_keys, self.random.choice(("retry", "skip", "discard"))
            if not chosen.error:  # its call is running
                return
            if action != "retry" and chosen.size > 1:  # nobody knows yet which of them is at fault
                return
            partition = str(self.topology().partition_of(chosen.of_key))
            (head,) = self.server.outside(b"LRANGE", self.names.mailbox(partition, key), b"-1", b"-1")
            number = number_of(json.loads(head)["headers"]["id"])
            if number is None:
                return
            self.log(f"an operator's {action} of {number}, at which {key} is parked", action)
            if action == "discard":
                self.judge.discarded(number)
            assert getattr(keys, action)(key, by="me") == "ok"

    def retry_dead_letter(self) -> None:
        """An operator retries a dead letter, if this puts it behind everything that was sent to its key."""
        if self.topology().epoch:
            return
        straight = {key for key in self.keys if self.way_of(key) == self.names.queue(self.home_of(key))}
        straight |= {key for _, key in self.judge.wanted if key.startswith(("next-", "last-"))}
        for number, dead_letters in list(self.judge.dead.items()):
            place = self.judge.place_of.get(number) if isinstance(number, int) else None
            if place is None or place[1] not in straight:
                continue
            dead_letter = self.group.dead_letters.get(min(dead_letters).decode())
            if dead_letter is not None:
                self.log(f"an operator retries {number!r}", "retry dead letter")
                self.judge.sent_again(int(number))
                assert self.group.dead_letters.retry([dead_letter]) == 1
            return


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()
