"""The same where no script sees two partitions, as on several servers: keys move through outboxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from celery_partitions.store import resize_apart
from celery_partitions.store.outbox import Outbox
from celery_partitions.store.scripts import script
from celery_partitions.worker.courier import Courier
from tests.simulation.schedule import run

#: About half a minute on one core.
SCHEDULES = 10

#: Name → texts in the scripts and their replacements. Each text must occur once in one of them.
BROKEN_SCRIPTS: Mapping[str, Mapping[str, str]] = {
    "what is sent twice is applied twice": {"if number(tail) > number(last) then": "if true then", "if before ~= last then": "if false then"},
    "the former holder of a partition takes its keys out": {"if meta[3] ~= token then": "if false then"},
}


def forget_before_it_has_arrived(patch: pytest.MonkeyPatch) -> None:
    sound = Courier._deliver

    def deliver(courier: Courier, owned: object, outbox: Outbox) -> bool:
        courier.client.delete(outbox.key)
        return sound(courier, owned, outbox)  # type: ignore[arg-type]

    patch.setattr(Courier, "_deliver", deliver)


def send_before_the_target_follows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resize_apart, "follow_already", lambda *_: True)


#: Name → what breaks the engine.
BREAKS: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the source forgets what it has sent before it has arrived": forget_before_it_has_arrived,
    "keys leave for a partition that still works by the former number": send_before_the_target_follows,
}

#: The first seed with which one of the next few schedules finds the defect.
FIRST = {
    "what is sent twice is applied twice": 0,
    "the former holder of a partition takes its keys out": 6,
    "the source forgets what it has sent before it has arrived": 8,
    "keys leave for a partition that still works by the former number": 118,
}


def edits_of(name: str) -> dict[str, str]:
    texts = [script(one).text.decode() for one in ("receive", "commit")]
    for sound in BROKEN_SCRIPTS[name]:
        assert sum(text.count(sound) for text in texts) == 1, f"the scripts have changed, and cannot be broken as {name!r}: {sound}"
    return dict(BROKEN_SCRIPTS[name])


def first_caught(seeds: range, edits: dict[str, str] | None = None) -> int | None:
    for seed in seeds:
        try:
            run(seed, edits, resizes=True, apart=True)
        except AssertionError:
            return seed
    return None


def test_every_promise_is_kept_during_resizes() -> None:
    seen = Counter[str]()
    for seed in range(SCHEDULES):
        try:
            seen.update(run(seed, resizes=True, apart=True).faults)
        except AssertionError as error:
            error.add_note(f"seed {seed}: python -m tests.simulation --resizes --apart --seed {seed}")
            raise
    assert {"resize", "abort", "finish", "kill"} <= seen.keys()


@pytest.mark.parametrize("name", BROKEN_SCRIPTS)
def test_broken_scripts_are_caught(name: str) -> None:
    assert first_caught(range(FIRST[name], FIRST[name] + 60), edits_of(name)) is not None


@pytest.mark.parametrize("name", BREAKS)
def test_broken_engines_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BREAKS[name](monkeypatch)
    assert first_caught(range(FIRST[name], FIRST[name] + 60)) is not None
