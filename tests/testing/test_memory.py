"""The harness's Redis beside the engine's own scripts: each commit is run by both, to the same answer and the same data."""

from __future__ import annotations

from typing import Any

import pytest

from celery_partitions import source
from celery_partitions.producer.pipelines import applications
from celery_partitions.store.scripts import script
from celery_partitions.testing import HarnessError, harness
from celery_partitions.testing.keyspace import Clock, Stream
from celery_partitions.testing.memory import Memory
from celery_partitions_config.settings import Settings
from tests.simulation.keyspace import Keyspace as LuaKeyspace
from tests.simulation.lua import run_script
from tests.testing.applications import Amount, double, key_of, of_its_own
from tests.testing.scenarios import Scenario
from tests.testing.test_agreement import each_scenario, in_memory


class SideBySide(Memory):
    """Runs each script by Lua too, on the other implementation of a keyspace that the simulation has."""

    ran: dict[str, int]

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.lua = LuaKeyspace()
        self._inside = False
        type(self).ran = {}

    def call(self, *words: Any) -> Any:
        if not self._inside:
            self._synchronize()
            self.lua.call([word if isinstance(word, bytes) else str(word).encode() for word in words])
        return super().call(*words)

    def execute_command(self, command: str, *words: Any) -> Any:
        self._synchronize()
        digest, count, *rest = words
        name = next(name for name in ("commit", "begin_try", "forgive") if script(name).digest == digest)
        as_bytes = [word if isinstance(word, bytes) else str(word).encode() for word in rest]
        by_lua = run_script(self.lua, script(name).text, as_bytes[:count], as_bytes[count:])
        self._inside = True
        try:
            answer = super().execute_command(command, *words)
        finally:
            self._inside = False
        assert answer == by_lua, name
        assert self._comparable(self) == self._comparable(self.lua), name
        word = f"{name} {answer[0].decode()}" if isinstance(answer, list) else name
        self.ran[word] = self.ran.get(word, 0) + 1
        return answer

    def _synchronize(self) -> None:
        self.lua.now = (self.clock.milliseconds + 0.5) / 1000

    def _comparable(self, one: Any) -> dict[bytes, Any]:
        """What is held and has not expired; of a stream how many entries."""
        kept = {key: held for key, held in one.data.items() if one.ends.get(key, 2**63) > self.clock.milliseconds}
        return {key: len(held) if type(held).__name__ == Stream.__name__ else held for key, held in kept.items()}


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> type[SideBySide]:
    monkeypatch.setattr("celery_partitions.testing.in_memory.Memory", SideBySide)
    return SideBySide


@each_scenario
def test_scenarios(side_by_side: type[SideBySide], scenario: Scenario) -> None:
    in_memory(scenario, "in the step", "after the commit", batch_messages=7)
    in_memory(scenario, "after the commit", "before the commit", twice=True)
    assert {"commit ok", "commit already", "commit fenced", "begin_try ok"} <= side_by_side.ran.keys()


def test_what_is_delayed_and_large(side_by_side: type[SideBySide]) -> None:
    with harness(of_its_own, batch_messages=3) as h:
        for number in range(20):
            h.send(Amount("a", number), countdown=number % 4 / 2)
        h.advance(seconds=5)
        assert [number % 4 for number in h.state(of_its_own).seen] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    with harness(applications["words"]) as h:
        h.send_many(["x" * 1_500_000] * 5)
    assert side_by_side.ran["commit ok"] > 3


@pytest.mark.parametrize("twice", [False, True])
def test_what_is_sent_again_under_its_id(side_by_side: type[SideBySide], twice: bool) -> None:
    once = source("once", type=Amount, deduplicate=60).key_by(key_of).to(double, name="double once").to_sinks([])
    with harness(once, twice=twice) as h:
        for seconds in (0, 10, 20, 200):
            h.advance(seconds=seconds)
            h.send(Amount("a", 1), message_id="the one")
        assert h.state("double once").total == 4
    with harness(once, settings=Settings(deduplicate_ids=4), partitions=1) as h:
        for number in [*range(5), *range(5)]:
            h.send(Amount("a", 1), message_id=str(number))
        assert h.state("double once").total > 10


def test_a_name_that_holds_another_type(side_by_side: type[SideBySide]) -> None:
    with harness(applications["words"]) as h:
        h._memory.call("HSET", "counted", "a", "hash")
        with pytest.raises(HarnessError, match="'counted'"):
            h.send("the cat")


def test_what_it_was_not_taught_is_an_error() -> None:
    memory = Memory(Clock(0.0))
    with pytest.raises(NotImplementedError, match="GETDEL"):
        memory.call("GETDEL", "x")
    with pytest.raises(NotImplementedError, match="not been taught"):
        memory.execute_command("EVALSHA", script("balance").digest, 0)
