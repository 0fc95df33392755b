"""Named timers on a real server: what the commit script makes of an alarm, in all kinds of computations, and what operators see."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from celery_partitions import Context, Timer, key_extractor, state_computation
from celery_partitions.admin.exporter import Exporter
from celery_partitions.admin.importer import Importer
from celery_partitions.admin.timers import cancel_timer, timers_of
from celery_partitions.model.errors import StateError
from celery_partitions.model.topology import Topology
from celery_partitions.store.names import Names
from tests.fundamentals.live import LiveGroup
from tests.worker.by_hand import LoopByHand


@dataclass
class Alarm:
    key: str
    name: str = "plain"
    after: float = 0.0


class Fired:
    names: tuple[str, ...] = ()
    lateness: tuple[float, ...] = ()


@key_extractor
def key_of(alarm: Alarm) -> str:
    return alarm.key


@state_computation("tests.alarms: set", state=Fired, key=key_of)
def set_alarm(alarm: Alarm, fired: Fired, context: Context) -> None:
    context.timers.set(alarm.name, after=alarm.after, message=[alarm.name])


@state_computation("tests.alarms: set in a coroutine", state=Fired, key=key_of)
async def set_in_coroutine(alarm: Alarm, fired: Fired, context: Context) -> None:
    await asyncio.sleep(0)
    context.timers.set("coroutine", after=alarm.after)


def fires(timer: Timer, fired: Fired) -> None:
    assert timer.due <= timer.fired <= datetime.now(UTC)
    fired.names += (timer.name,)
    fired.lateness += ((timer.fired - timer.due).total_seconds(),)


set_alarm.on_timer("plain")(fires)
set_alarm.on_timer('any "text" ☃')(fires)
set_alarm.on_timer("limited", time_limit=60)(fires)
set_alarm.on_timer("thread", executor="threads")(fires)


@set_in_coroutine.on_timer("coroutine")
async def fires_in_coroutine(timer: Timer, fired: Fired, context: Context) -> None:
    await asyncio.sleep(0)
    fires(timer, fired)
    if len(fired.names) < 3:
        context.timers.set("coroutine", after=0.001)


#: Options of the fixture `loop`.
LOOP = {"calls": True, "tasks": True}


def names_of(live: LiveGroup, key: str, computation: Any = set_alarm) -> tuple[str, ...]:
    state = live.group.states.get(computation.computation, key)
    return () if state is None else state.names


@pytest.mark.parametrize("name", ["plain", 'any "text" ☃', "limited", "thread"])
@pytest.mark.parametrize("key", ["k", 'a"b\n☃'])
def test_a_timer_fires(live: LiveGroup, loop: LoopByHand, name: str, key: str) -> None:
    live.send(set_alarm, [Alarm(key, name, 0.02)])
    loop.look_again()
    loop.live_until(lambda: names_of(live, key) == (name,))
    assert not any(row.delayed or row.length or row.dead for row in live.group.status())


def test_a_coroutine_sets_timers_and_is_one(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(set_in_coroutine, [Alarm("k", after=0.001)])
    loop.look_again()
    loop.live_until(lambda: names_of(live, "k", set_in_coroutine) == ("coroutine",) * 3)


def test_operators_see_and_cancel_timers(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(set_alarm, [Alarm("k", "plain", 3600), Alarm("k", "limited", 0.2)])
    loop.look_again()
    loop.take_turns()
    [limited, plain] = timers_of(live.group.states, [set_alarm.computation], "k")
    assert (limited.name, plain.name, plain.message, plain.repeats, plain.has_handler) == ("limited", "plain", ["plain"], None, True)
    assert 3590 < plain.due - live.group.now() < 3610
    editor = live.group.state_editor
    seen = editor.see(set_alarm.computation, "k")
    assert cancel_timer(editor, seen, "plain", by="me") == "ok"
    assert cancel_timer(editor, seen, "plain", by="me") == "changed"
    with pytest.raises(StateError, match="not set"):
        cancel_timer(editor, editor.see(set_alarm.computation, "k"), "plain", by="me")
    loop.live_until(lambda: names_of(live, "k") == ("limited",))
    assert timers_of(live.group.states, [set_alarm.computation], "k") == []


def test_a_state_that_an_operator_sets_keeps_its_timers(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(set_alarm, [Alarm("k", "plain", 0.2)])
    loop.look_again()
    loop.take_turns()
    editor = live.group.state_editor
    changed = Fired()
    changed.names = ("set",)
    assert editor.set(editor.see(set_alarm.computation, "k"), changed, by="me") == "ok"
    loop.live_until(lambda: names_of(live, "k") == ("set", "plain"))


def test_an_import_into_another_number_of_partitions_carries_timers(live: LiveGroup, loop: LoopByHand, tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(10)]
    live.send(set_alarm, [Alarm(key, "plain", 3600) for key in keys])
    loop.look_again()
    loop.take_turns()
    path, names, topology = tmp_path / "export", Names("other"), Topology(1, 3)
    Exporter(live.client, live.names, live.settings.partitions, by="me").write(path, pause_all=False)
    Importer(live.client, names, topology, live.installation.computations, path).run(by="me")
    for number in range(3):
        alarms = live.client.zrange(names.delayed(str(number)), 0, -1)
        wanted = [key for key in keys if topology.partition_of(key) == number]
        assert sorted(alarms) == sorted(b'@"tests.alarms: set @ plain"\n"%b"' % key.encode() for key in wanted)
