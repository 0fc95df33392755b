"""The scenarios detect a deliberately broken engine: each defect must make at least one scenario differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_partitions.model.caller import Caller, _Run
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.rollback import Replay
from celery_partitions.store import commands
from celery_partitions.worker import loop, loop_commits
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.planned_commit import PlannedCommit
from tests.testing.scenarios import SCENARIOS
from tests.testing.test_agreement import in_memory

Patch = pytest.MonkeyPatch


def outputs_of_undone_messages_stay(patch: Patch) -> None:
    patch.setattr(Replay, "outputs", lambda self: [one for outputs in self.emitted.values() for one in outputs])


def outputs_of_failed_messages_stay(patch: Patch) -> None:
    call, init = Caller.call, _Run.__init__

    def leaky(self: Any, item: Any, attempt: int) -> Any:
        kept = self.__dict__.setdefault("kept", [])
        try:
            outputs = yield from call(self, item, attempt)
        except BaseException:
            kept += self.run.made if self.run is not None else []
            raise
        if outputs is not None:
            outputs[:0] = kept
            kept.clear()
        return outputs

    def known(self: Any, caller: Any, item: Any, attempt: int) -> None:
        caller.run = None
        init(self, caller, item, attempt)
        caller.run = self

    patch.setattr(Caller, "call", leaky)
    patch.setattr(_Run, "__init__", known)


def failed_messages_are_not_undone(patch: Patch) -> None:
    def no_rollback(self: Any, item: Any) -> Any:
        return
        yield

    patch.setattr(Replay, "run", no_rollback)


def outputs_change_places(patch: Patch) -> None:
    sound = commands.commands_of_outputs
    patch.setattr(commands, "commands_of_outputs", lambda emitted, *rest: sound(emitted[::-1], *rest))


def timers_are_forgotten(patch: Patch) -> None:
    sound = commands.commands_of_outputs

    def forgetful(emitted: Any, *rest: Any) -> Any:
        return sound([one for one in emitted if type(one).__name__ != "Timer"], *rest)

    patch.setattr(commands, "commands_of_outputs", forgetful)


def later_messages_overtake_a_parked_one(patch: Patch) -> None:
    sound = loop.PartitionLoop.step

    def step(self: Any, owned: OwnedPartition, batch: Any, items: Any) -> Outcome:
        owned.parked, parked = ({} if batch.mailbox_of is None else owned.parked), owned.parked
        outcome = sound(self, owned, batch, items)
        owned.parked = parked
        return outcome

    patch.setattr(loop.PartitionLoop, "step", step)


def commits_do_not_say_where_they_belong(patch: Patch) -> None:
    sound = loop_commits.plan_commit

    def plan(*args: Any, **named: Any) -> PlannedCommit | None:
        planned = sound(*args, **named)
        return None if planned is None else replace(planned, commit=replace(planned.commit, commit_number=None))

    patch.setattr(loop_commits, "plan_commit", plan)


def a_list_is_given_on_whole(patch: Patch) -> None:
    patch.setattr(_Run, "give_each", lambda self, nodes, values: None if values is None else [self.give(nodes, one) for one in values])


BROKEN: list[Callable[[Patch], None]] = [
    outputs_of_undone_messages_stay,
    outputs_of_failed_messages_stay,
    failed_messages_are_not_undone,
    outputs_change_places,
    timers_are_forgotten,
    later_messages_overtake_a_parked_one,
    commits_do_not_say_where_they_belong,
    a_list_is_given_on_whole,
]


@pytest.fixture(scope="module")
def sound() -> list[dict[str, Any]]:
    """The results of each scenario on the real engine."""
    return [in_memory(scenario) for scenario in SCENARIOS]


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda break_it: break_it.__name__)
def test_at_least_one_scenario_shows_it(
    monkeypatch: Patch, break_it: Callable[[Patch], None], sound: list[dict[str, Any]]
) -> None:
    break_it(monkeypatch)
    shown: list[str] = []
    for scenario, wanted in zip(SCENARIOS, sound, strict=True):
        try:
            found = [in_memory(scenario), in_memory(scenario, batch_messages=2), in_memory(scenario, twice=True)]
        except Exception as error:
            shown.append(f"{scenario.name}: {error}")
        else:
            shown += [scenario.name] * (found != [wanted] * 3)
    assert shown
    print(break_it.__name__, shown)
