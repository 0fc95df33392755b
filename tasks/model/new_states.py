"""Pickles the states that a step has changed. If one can't be pickled, the message that made it so fails."""

from __future__ import annotations

from celery_partitions.model.caller import Caller, Calls
from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import Alarm
from celery_partitions.model.outcome import GONE, Outcome, Slot
from celery_partitions.model.rollback import Replay
from celery_partitions.model.step_failures import Failures
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.timers import EXPIRY, NO_TIMERS, fresh_expiries, touch


class NewStates:
    """Made once per step, whose parts it shares. `alarms`: adds those of records that expire."""

    def __init__(self, out: Outcome, rules: StepRules, caller: Caller, replay: Replay, failures: Failures, alarms: list[Alarm]) -> None:
        self.out, self.rules, self.caller, self.replay, self.failures, self.alarms = out, rules, caller, replay, failures, alarms
        #: The keys that messages used, of each stage with `ttl=` whose keys were due. Thousands may expire in one step.
        self._used: dict[Computation, set[str]] = {}

    def pickle(self) -> Calls[None]:
        """Put the bytes of every changed state into the outcome, and the versions of states."""
        dump = self.rules.pickling.dump
        for stage, slots in list(self.caller.touched.items()):  # a copy, because a rollback calls computations, which may touch other states
            changed = self.out.states.setdefault(stage.name, {})
            expires, checked = stage.ttl_ms is not None, self.caller.checked
            first, last, now = fresh_expiries(stage, self.rules.now) if expires else (0, 0, 0)
            for key, slot in list(slots.items()):
                try:
                    if expires:
                        expiry = None if checked or slot.timers is None else slot.timers.get(EXPIRY)
                        is_fresh = expiry is not None and first <= expiry.due <= last and expiry.alarm > now
                        after = dump(stage, key, slot.state, slot.timers) if is_fresh or self.is_kept(stage, key, slot) else GONE
                    else:
                        after = dump(stage, key, slot.state, slot.timers)
                except Exception:
                    yield from self.roll_back(stage, key)
                    continue
                if after != slot.stored:
                    changed[key] = after
        for stage in self.caller.touched:
            if stage.state is not None and stage.state.is_versioned:
                self.out.versions[stage.name] = stage.state.version

    def is_kept(self, stage: Computation, key: str, slot: Slot) -> bool:
        """For a stage with `ttl=`: whether the key's record is kept. Moves its expiry if a message used the key."""
        if (stage.name, key) in self.caller.checked and key not in self.used(stage):
            return EXPIRY in (slot.timers or NO_TIMERS)
        alarm = touch(stage, key, slot, self.rules.now)
        if alarm is not None:
            self.alarms.append(alarm)
        return True

    def used(self, stage: Computation) -> set[str]:
        """The keys of a stage that messages used, other than by their expiry."""
        found = self._used.get(stage)
        if found is None:
            expiry = stage.handlers[EXPIRY]
            found = {work.key for work in self.out.done if work.computation is not expiry and stage in work.computation.stateful}
            self._used[stage] = found
        return found

    def roll_back(self, spoiled: Computation, key: str) -> Calls[None]:
        """A key's state can't be pickled. Fail the message that made it so, and pickle the key's restored states."""
        scope = spoiled.scope
        self._used.clear()
        last = next(work for work in reversed(self.out.done) if work.key == key and work.computation.scope == scope)
        before = self.replay.slots_of(scope, key)
        try:
            undone = yield from self.replay.run(last)
        except Exception as unreadable:
            self.failures.give_up(last, unreadable)
            return
        if undone is not None:
            self.failures.park_from(undone, [])
        for stage in before:
            self.out.states.get(stage.name, {}).pop(key, None)
        for stage, slot in self.replay.slots_of(scope, key).items():
            is_gone = stage.ttl_ms is not None and not self.is_kept(stage, key, slot)
            after = GONE if is_gone else self.rules.pickling.dump(stage, key, slot.state, slot.timers)
            if after != slot.stored:
                self.out.states.setdefault(stage.name, {})[key] = after
