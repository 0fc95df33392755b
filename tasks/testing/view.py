"""What a test can read of a group, in memory or on a real server: states, outputs, dead letters and parked keys."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, assert_never

import msgspec

from celery_partitions.model.computation import Computation, HopNode, Node, StageNode
from celery_partitions.model.declaration import declare
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.messages import open_envelope
from celery_partitions.model.sinks import ListSink, QueueSink, StreamSink
from celery_partitions.model.values import ANY_VALUE, load_value
from celery_partitions.pipeline.builder import Built
from celery_partitions.pipeline.sinks import SinkConfig, sink_config
from celery_partitions.producer.handle import OrderedComputation
from celery_partitions.producer.pipelines import Application, applications
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import declared
from celery_partitions.store.dead_letters import DeadLetter

#: What a test can run.
Subject = Application | Built | OrderedComputation[Any, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """The computations and sinks that a test can use, by name."""

    #: Computations that accept messages.
    sources: Mapping[str, Computation]
    #: Computations that may have a state.
    stages: Mapping[str, Computation]
    sinks: Mapping[str, SinkConfig]

    @classmethod
    def of(cls, subject: Subject) -> Parts:
        """The parts of an application or a computation. Raises `DeclarationError` for a stage without its pipeline."""
        if isinstance(subject, OrderedComputation):
            one = subject.computation
            if one.role != "task":
                raise DeclarationError(f"{one.name!r} has no key=, so it is a stage. Pass its pipeline, or call the function itself")
            return cls({one.name: one}, {one.name: one}, {})
        after = _computations_after([*subject.sources.values(), *subject.stages.values()])
        return cls(subject.sources, {**subject.stages, **after}, subject.sinks)

    @classmethod
    def of_process(cls) -> Parts:
        """Everything declared in this process."""
        sources = {name: one for name, one in declared.items() if one.role != "stage"}
        sinks = {name: sink for application in applications.values() for name, sink in application.sinks.items()}
        return cls(sources, declared, sinks)


class View:
    """The results of processing messages of `parts` in the group of `installation`."""

    def __init__(self, parts: Parts, installation: Installation) -> None:
        self.parts, self.installation = parts, installation

    def state(self, stage: Any, key: object = None) -> Any:
        """A copy of a key's last committed state; None if the key has none.

        `stage`: a stage's name, or the declared computation. `key`: optional if at most one key has a state. Raises
        `DeclarationError` for an unknown stage, or if `key` is missing and several keys have a state.
        """
        if key is not None:
            return self.installation.group.states.get(self._stateful(stage), key)
        states = self.states(stage)
        if len(states) > 1:
            raise DeclarationError(f"stage {_name_of(stage)!r} has states of several keys, pass one as key=: {', '.join(map(repr, states))}")
        return next(iter(states.values()), None)

    def states(self, stage: Any) -> dict[str, Any]:
        """All states of a stage: normalized key → state."""
        computation, states = self._stateful(stage), self.installation.group.states
        return states.get_many(computation, dict.fromkeys(states.keys(*computation.formerly, computation.name)))

    def outputs(self, sink: Any) -> list[Any]:
        """The outputs for a sink, in order. `sink`: its name, or the object passed to `to_sink`. Raises `DeclarationError`.

        With an encoder, outputs are the bytes it returned. Otherwise they are the values that the sink's task, function or stream
        reader receives, after JSON if they travel as JSON. Nothing is delivered: no task runs and no function is called.
        """
        name = sink if isinstance(sink, str) else sink_config(sink).sink_name
        config = self.parts.sinks.get(name)
        if config is None:
            known = ", ".join(map(repr, self.parts.sinks)) or "none"
            raise DeclarationError(f"no sink is named {name!r}; known sinks: {known}")
        where: Any = self.installation.group.client
        place = config.sink()
        match place:
            case ListSink(list=list_name):
                return [_value(config, payload) for payload in reversed(where.lrange(list_name, 0, -1))]
            case StreamSink(stream=stream):
                return [_value(config, entry[b"message"]) for _, entry in where.xrange(stream)]
            case QueueSink():
                queue, _ = self.installation.message_writer("test").to_sink(place)
                raws = where.lrange(self.installation.group.names.prefix + queue, 0, -1)
                envelopes = [open_envelope(raw) for raw in reversed(raws)]
                mine = [one for one in envelopes if one.headers.task == place.task]
                return [self._argument(config, place, one.body, one.headers.id) for one in mine]
        assert_never(place)

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, oldest first."""
        return sorted(self.installation.group.dead_letters.all(), key=lambda dead_letter: dead_letter.died_at)

    @property
    def parked(self) -> dict[str, ParkedKey]:
        """The keys whose messages wait after a failure, by normalized key."""
        return {one.key: one for one in self.installation.group.parked_keys.all()}

    @property
    def paused(self) -> list[int]:
        """The numbers of partitions that a failure paused (`exhausted="stop"`)."""
        group = self.installation.group
        numbers = range(self.installation.group.topology.served)
        return [one for one in numbers if group.client.hget(group.names.meta(str(one)), "paused") is not None]

    def source_of(self, source: Any) -> Computation:
        """A source by its name or declared object; None: the only source. Raises `DeclarationError`."""
        name = next(iter(self.parts.sources)) if source is None and len(self.parts.sources) == 1 else _name_of(source)
        found = self.parts.sources.get(name)
        if found is None:
            what = "pass source=, one of" if source is None else f"no source is named {name!r}; known sources:"
            raise DeclarationError(f"{what} {', '.join(map(repr, self.parts.sources))}")
        return found

    def _stateful(self, stage: Any) -> Computation:
        found = self.parts.stages.get(_name_of(stage))
        if found is None or found.state is None:
            known = ", ".join(repr(one.name) for one in self.parts.stages.values() if one.state is not None) or "none"
            raise DeclarationError(f"no stage with a state is named {_name_of(stage)!r}; stages with a state: {known}")
        return found

    def _argument(self, config: SinkConfig, sink: QueueSink, body: bytes, message_id: str) -> Any:
        if sink.encode is None or not sink.has_process:
            modules = tuple({module for one in self.parts.sources.values() for module in one.modules})
            reader = replace(declare(lambda value: None, name=sink.task, state=None, key=lambda value: ""), modules=modules)
            codec = self.installation.group.codec
            return load_value(ANY_VALUE, body, lambda signed: codec.load_value(reader, message_id, signed))
        return _value(config, base64.b64decode(msgspec.json.decode(body)[0][0]))


def _value(config: SinkConfig, payload: bytes) -> Any:
    return payload if getattr(config, "encoder", None) is not None else msgspec.json.decode(payload)


def _name_of(given: Any) -> str:
    return given if isinstance(given, str) else str(getattr(given, "name", given))


def _computations_after(computations: list[Computation]) -> dict[str, Computation]:
    """The computations with their own key that receive outputs."""
    found: dict[str, Computation] = {}

    def look(nodes: list[Node]) -> None:
        for node in nodes:
            if isinstance(node, StageNode):
                look(node.then)
            elif isinstance(node, HopNode) and node.stage.role == "task":
                found[node.stage.name] = node.stage

    for computation in computations:
        look(computation.roots)
    return found
