"""Many schedules of the loop, each from its seed. `python -m tests.simulation --seed N` shows one that failed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from celery_partitions.model import in_flight as in_flight_model
from celery_partitions.model.effects import Delivery, Emission, Hop, Timer
from celery_partitions.model.mailboxes import Mailboxes
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.outputs import Outputs
from celery_partitions.model.rollback import Replay
from celery_partitions.store import commands
from celery_partitions.store.commands import commands_of_outputs
from celery_partitions.store.leases import Share
from celery_partitions.store.names import Names
from celery_partitions.worker import in_flight, in_flight_commit, planned_commit
from celery_partitions.worker.holdings import Holdings
from celery_partitions.worker.loop_commits import LoopCommits
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import Event
from tests.faults.broken_calls import BREAKS as BREAKS_OF_CALLS
from tests.simulation.engines import BREAKS, broken
from tests.simulation.schedule import run

#: All together take about a minute on one core. They are split into parts that are far below the timeout of a test.
PARTS, SCHEDULES_OF_A_PART = 5, 50

#: Events that must occur in every part, or it proves little.
KINDS = {"changed after a commit", "kill", "leave", "freeze", "cut", "request lost", "reply lost", "request late", "server restart", "forget", "edit", "lose"}


#: Schedules in which keys become hot several times.
HOT_SEEDS = (15, 16, 33)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_promise_is_kept_in_every_schedule(part: int) -> None:
    seen = Counter[str]()
    for seed in range(part * SCHEDULES_OF_A_PART, (part + 1) * SCHEDULES_OF_A_PART):
        try:
            report = run(seed)
        except AssertionError as error:
            error.add_note(f"seed {seed}: python -m tests.simulation --seed {seed}")
            raise
        seen.update(report.faults)
        seen["applied"] += report.applied
    assert seen.keys() >= KINDS
    assert seen["applied"] > 20 * SCHEDULES_OF_A_PART


def test_every_promise_is_kept_while_the_servers_clock_jumps() -> None:
    seen = Counter[str]()
    for seed in range(20):
        seen.update(run(seed, focus="set_clock").faults)
    assert seen["clock"] > 200


def test_every_promise_is_kept_while_keys_are_hot() -> None:
    assert all("hot key" in run(seed, focus="send_burst").faults for seed in HOT_SEEDS)


def is_caught(
    edits: dict[str, str] | None = None, *, focus: str | None = None, schedules: int = 300, first: int = 0
) -> bool:
    """Whether a schedule finds the defect."""
    for seed in range(first, first + schedules):
        try:
            run(seed, edits, focus=focus)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("name", BREAKS)
def test_an_engine_with_broken_scripts_is_caught(name: str) -> None:
    assert is_caught(broken(name))


def test_states_kept_after_a_refusal_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_less(owned: OwnedPartition) -> None:
        owned.messages = []
        owned.on(Event.FORGET)

    monkeypatch.setattr(OwnedPartition, "forget_all", forget_less)
    assert is_caught(first=400)  # rare: a commit is mostly sent again until it is answered


def test_states_kept_although_an_operator_changed_something_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken engine adopts the edit version from a peek or a repeated commit, but keeps what it read before."""
    sound = OwnedPartition.take_reply

    def take_reply(owned: OwnedPartition, reply: Any) -> None:
        owned.edit_version = reply.edit_version
        sound(owned, reply)

    monkeypatch.setattr(OwnedPartition, "take_reply", take_reply)
    assert is_caught(focus="change_after_commit")  # about one schedule in ten finds it; without the focus, one in 200


def test_a_hot_key_whose_record_is_not_written_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages are in its mailbox, and nobody knows."""
    sound = planned_commit._waiting_after

    def forget(*about: Any) -> Any:
        return {key: record for key, record in sound(*about).items() if record.reason != "ready"}

    monkeypatch.setattr(planned_commit, "_waiting_after", forget)
    assert is_caught(focus="send_burst", first=HOT_SEEDS[0])


def test_a_hot_key_whose_messages_change_places_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Mailboxes.mail

    def mail(boxes: Mailboxes, item: Any, place: str) -> bool:
        done = sound(boxes, item, place)
        if boxes.turn_of(place) == "ready":
            boxes.out.mailed[place].reverse()
        return done

    monkeypatch.setattr(Mailboxes, "mail", mail)
    assert is_caught(focus="send_burst", first=HOT_SEEDS[0])


def test_gathers_whose_records_are_not_written_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages of a batch computation are in a mailbox, and nobody knows."""
    sound = planned_commit._waiting_after

    def forget(*about: Any) -> Any:
        return {key: record for key, record in sound(*about).items() if record.reason != "gather"}

    monkeypatch.setattr(planned_commit, "_waiting_after", forget)
    assert is_caught()


def test_batches_whose_messages_change_places_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Mailboxes.wait_for_turn

    def backwards(boxes: Mailboxes, works: Any, *about: Any) -> bool:
        done = sound(boxes, works, *about)
        if place := next((place for place in boxes.out.waiting if len(boxes.out.mailed.get(place, ())) > 1), None):
            boxes.out.mailed[place].reverse()
        return done

    monkeypatch.setattr(Mailboxes, "wait_for_turn", backwards)
    assert is_caught(first=60)


def test_a_message_that_does_not_reach_its_own_line_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed call of a computation with `holds="computation"` moves its message to another mailbox."""
    sound = in_flight_commit._Plan.add

    def forget(plan: Any, run: Any) -> Any:
        for one in run.outcomes:
            one.mailed.clear()
        return sound(plan, run)

    monkeypatch.setattr(in_flight_commit._Plan, "add", forget)
    assert is_caught(first=60)


def test_calls_that_overtake_their_own_line_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (in_flight_model, in_flight):
        monkeypatch.setattr(module, "is_behind_line", lambda *about: False)
    assert is_caught(first=740)


@pytest.mark.parametrize("name", [name for name in BREAKS_OF_CALLS if "state check" not in name])  # real workers show that in two seconds
def test_an_engine_with_broken_calls_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    BREAKS_OF_CALLS[name](monkeypatch.setattr)
    assert is_caught()


def test_outputs_that_are_pushed_outside_the_commit_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even directly after the commit: the worker can die between the two."""
    sound = LoopCommits.send

    def send(commits: LoopCommits, owned: OwnedPartition, batch: Any, items: Any, outcome: Outcome, retries: Any) -> None:
        commands = commands_of_outputs(outcome.emitted, commits.loop.names, owned.partition, owned.commit_number, 1000)
        outcome.emitted = []
        sound(commits, owned, batch, items, outcome, retries)
        for command in commands:
            commits.loop.client.execute_command(*command)

    monkeypatch.setattr(LoopCommits, "send", send)
    assert is_caught()


def test_outputs_kept_for_an_undone_message_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[Any, list[Emission]] = {}
    emit, outputs = Outputs.emit, Replay.outputs

    def keep(outputs_: Any, node: Any, value: Any) -> None:
        emit(outputs_, node, value)
        kept.setdefault(outputs_, []).extend(outputs_.made)

    def all_outputs(replay: Any) -> list[Emission]:
        sound = outputs(replay)
        return sound + [one for one in kept.pop(replay.caller.outputs, []) if one not in sound]

    monkeypatch.setattr(Outputs, "emit", keep)
    monkeypatch.setattr(Outputs, "first_hop", lambda *_: lambda *_: None)  # the short way keeps nothing
    monkeypatch.setattr(Replay, "outputs", all_outputs)
    assert is_caught(schedules=700)  # a failure so late in a pipeline is rare


def test_outputs_in_another_order_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def reverse(emitted: list[Emission], *others: Any) -> list[list[Any]]:
        return commands_of_outputs(emitted[::-1], *others)

    monkeypatch.setattr(commands, "commands_of_outputs", reverse)
    assert is_caught()


@pytest.mark.parametrize("kind", [Hop, Timer, Delivery])
def test_outputs_that_are_sometimes_lost_are_caught(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    def lose(emitted: list[Emission], names: Names, partition: str, commit_number: int, number: int) -> list[list[Any]]:
        kept = [one for one in emitted if not isinstance(one, kind) or commit_number % 7]
        return commands_of_outputs(kept, names, partition, commit_number, number)

    monkeypatch.setattr(commands, "commands_of_outputs", lose)
    assert is_caught()


def test_a_release_that_is_sent_only_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the release is lost, the partition has no owner: the worker has finished with it, but in Redis it is still the owner."""
    sound = Holdings.take_up_share

    def take_up_share(holdings: Holdings) -> None:
        known = {partition: token for partition, token in holdings.share.owned.items() if (partition, token) not in holdings.gone}
        share = holdings.share
        if known != share.owned:
            holdings.share = Share(known, tuple(partition for partition in share.give_up if partition in known), share.next_end_seconds)
        sound(holdings)

    monkeypatch.setattr(Holdings, "take_up_share", take_up_share)
    assert is_caught()


def test_a_seed_is_the_same_schedule_in_every_process() -> None:
    def trace(hash_seed: str) -> str:
        command = [sys.executable, "-m", "tests.simulation", "--seed", "11"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        here = Path(__file__).parents[2]
        done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, check=True)
        return done.stdout

    one, other = trace("1"), trace("2")
    assert one == other
    assert len(one.splitlines()) > 100
