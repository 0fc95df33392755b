"""Named timers of a pipeline's stages, in the harness."""

from __future__ import annotations

from dataclasses import dataclass

from celery_partitions import Context, RedisList, Timer, source, state_computation
from celery_partitions.testing import harness


@dataclass
class Event:
    key: str
    what: str


class Stage:
    seen: tuple[str, ...] = ()


@state_computation("tests.timers: quiet", state=Stage)
def quiet(event: Event, stage: Stage, context: Context) -> None:
    stage.seen += (event.what,)
    context.timers.set("end", after=30)


@quiet.on_timer("end")
def end(timer: Timer, stage: Stage) -> str:
    seen, stage.seen = ",".join(stage.seen), ()
    return seen


def test_in_a_pipeline_what_a_handler_returns_goes_on() -> None:
    sink = RedisList("lines", encoder=lambda text: text.encode())
    with harness(source("tests.timers: events", type=Event).key_by(lambda event: event.key).to(quiet).to_sink(sink)) as h:
        h.send(Event("k", "a"))
        h.send(Event("k", "b"))
        h.advance(minutes=1)
        assert h.outputs(sink) == [b"a,b"]
