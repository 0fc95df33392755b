"""Composes lines of steps into one pipeline.

A state that several steps share by name becomes one stage. Each message to it is marked with its step, and the stage dispatches on
that mark. A filter after the stage passes each step's outputs on in that step's line.

    line 1   orders ── mark 0 ─┐                         ┌─ only 0 ── sink
    line 2   quotes ── mark 1 ─┴─ key_by ─ the one stage ┴─ only 1 ── …
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from celery_partitions.pipeline.graph import Pipeline
from celery_partitions.pipeline.sources import TCPSourceConfig
from celery_partitions.wallaroo.computations import WallarooParameterError, stage_of, state_class
from celery_partitions.wallaroo.pipelines import source


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a line: `call(message)`, or `call(message, state)` if it has a state."""

    name: str
    call: Callable[..., Any]
    multi: bool
    #: The object whose module and name appear in logs and errors.
    like: Any
    #: None: the step has no state.
    state_name: str | None = None
    make: Callable[[], Any] | None = None
    #: Returns the key of a message; None: all messages share one key.
    key: Callable[[Any], Any] | None = None


@dataclass(slots=True)
class Line:
    """A source, its steps and its sinks. Without sinks, outputs of the last step are discarded."""

    name: str
    begin: Pipeline
    config: Any
    steps: list[Step] = field(default_factory=list)
    sinks: list[Any] = field(default_factory=list)


#: A step: the number of its line, and its position there.
_Place = tuple[int, int]


class Composition:
    """Builds the pipelines of an application's lines. Raises `WallarooParameterError` if lines cannot be composed."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self.users: dict[str, list[_Place]] = defaultdict(list)
        for number, line in enumerate(lines):
            for place, step in enumerate(line.steps):
                if step.state_name is not None:
                    self.users[step.state_name].append((number, place))
        self.stateless = {step.name for line in lines for step in line.steps if step.state_name is None}
        #: The output of each shared state's stage; None while it is being built.
        self.shared: dict[str, Pipeline | None] = {}

    def pipelines(self) -> Iterator[Pipeline]:
        """Each line as a pipeline, up to its sinks."""
        for number, line in enumerate(self.lines):
            last = line.steps[-1] if line.steps else None
            if not line.sinks and last is not None and self.is_shared(last):
                yield self.stage_shared(str(last.state_name)).to_sinks([])
            else:
                yield self.before(number, len(line.steps)).to_sinks(line.sinks)

    def is_shared(self, step: Step) -> bool:
        return step.state_name is not None and len(self.users[step.state_name]) > 1

    def before(self, number: int, place: int) -> Pipeline:
        """The part of a line before one of its steps."""
        line = self.lines[number]
        if place == 0:
            return line.begin
        step = line.steps[place - 1]
        if self.is_shared(step):
            mark = self.users[str(step.state_name)].index((number, place - 1))
            return self.stage_shared(str(step.state_name)).to(_only(mark, step))
        come = self.before(number, place - 1)
        if step.state_name is None:
            return come.to(stage_of(step.call, step.name, multi=step.multi, like=step.like))
        come = come.collect() if step.key is None else come.key_by(step.key)
        return come.to(self.stage(step.state_name, step.call, step.multi, step))

    def stage_shared(self, state_name: str) -> Pipeline:
        """The output of the stage of a shared state: `[mark, output]`."""
        if state_name in self.shared:
            made = self.shared[state_name]
            if made is None:
                raise WallarooParameterError(
                    f"two steps use the state {state_name!r}, and one comes after the other. This is not supported: "
                    "make them one computation"
                )
            return made
        self.shared[state_name] = None
        steps = [self.lines[number].steps[place] for number, place in self.users[state_name]]
        come: Pipeline | None = None
        for mark, (number, place) in enumerate(self.users[state_name]):
            marked = self.marked(mark, number, place)
            come = marked if come is None else come.merge(marked)
        assert come is not None
        keys = [step.key for step in steps]

        def key_of(marked: Any) -> Any:
            key = keys[marked[0]]
            return state_name if key is None else key(marked[1])

        come = come.collect() if all(key is None for key in keys) else come.key_by(key_of)
        made = come.to(self.stage(state_name, _dispatch(steps), True, steps[0]))
        self.shared[state_name] = made
        return made

    def marked(self, mark: int, number: int, place: int) -> Pipeline:
        """The input of a step, as `[mark, message]`.

        For the first step of a line the decoder adds the mark, so that its messages keep their own keys from the start.
        """
        line = self.lines[number]
        if place == 0 and isinstance(line.config, TCPSourceConfig):
            config = replace_decoder(line.config, _Marking(line.config.decoder, mark))
            return source(line.name, config)
        return self.before(number, place).to(stage_of(lambda message: [mark, message], f"to {line.steps[place].name}", multi=False, like=_only))

    def stage(self, state_name: str, call: Callable[..., Any], multi: bool, step: Step) -> Any:
        name = state_name if state_name not in self.stateless else f"{state_name} state"
        assert step.make is not None
        return stage_of(call, name, multi=multi, like=step.like, state=state_class(step.name, step.make))


class _Marking:
    """A decoder that returns `[mark, message]`."""

    def __init__(self, decoder: Any, mark: int) -> None:
        self.decoder, self.mark = decoder, mark
        self.header_length, self.payload_length = decoder.header_length, decoder.payload_length

    def __call__(self, payload: bytes) -> Any:
        message = self.decoder(payload)
        return None if message is None else [self.mark, message]


def replace_decoder(config: TCPSourceConfig, decoder: Any) -> TCPSourceConfig:
    named = {} if config.name is None else {"name": config.name}
    return TCPSourceConfig(host=config.host, port=config.port, decoder=decoder, parallelism=config.parallelism, **named)


def _dispatch(steps: list[Step]) -> Callable[[Any, Any], list[Any]]:
    def dispatch(marked: Any, state: Any) -> list[Any]:
        mark, message = marked
        returned = steps[mark].call(message, state)
        if not steps[mark].multi:
            return [] if returned is None else [[mark, returned]]
        if returned is not None and type(returned) is not list:
            raise TypeError(f"{steps[mark].name!r} must return a list of outputs, or None, not {type(returned).__name__}")
        return [[mark, output] for output in returned or () if output is not None]

    return dispatch


def _only(mark: int, step: Step) -> Any:
    return stage_of(lambda marked: marked[1] if marked[0] == mark else None, f"from {step.name}", multi=False, like=step.like)
