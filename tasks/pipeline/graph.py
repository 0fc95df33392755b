"""A pipeline as you write it: immutable nodes, each of which knows its inputs.

    source ── to ── key_by ── to ── to_sink
    source ──────────┘ (merge)

Each method returns a new `Pipeline` and leaves the old one unchanged. So a pipeline can be continued in several ways, which share its nodes.
"""

from __future__ import annotations

import itertools
import operator
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import key_extractor
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.message_codec import MessageCodec
from celery_partitions.model.state import StateClass
from celery_partitions.pipeline.sinks import ComputationSink, SinkConfig, sink_config
from celery_partitions.pipeline.sources import SourceConfig
from celery_partitions.pipeline.window_stage import CountWindows, RangeWindows
from celery_partitions.pipeline.windows import CountWindowsBuilder, RangeWindowsBuilder

_numbers = itertools.count()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GraphNode:
    """One node. `number`: nodes are numbered in the order in which they are created."""

    inputs: tuple[GraphNode, ...] = ()
    number: int = field(default_factory=lambda: next(_numbers))


@dataclass(frozen=True, slots=True, eq=False)
class Source(GraphNode):
    """Where messages come from. Without a `config`, producers send to the task of its name."""

    name: str
    config: SourceConfig | None
    event_time: Callable[[Any], Any] | None
    deduplicate_seconds: float | None
    #: The type of its messages; None: the annotation of the first function that receives them.
    type: Any
    #: How far an event time may be ahead of the clock, in seconds; None: any time.
    max_event_time_ahead_seconds: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Use(GraphNode):
    """A stage: one use of a computation, or windows."""

    computation: Computation
    #: The name that the user gave.
    name: str | None


@dataclass(frozen=True, slots=True, eq=False)
class KeyBy(GraphNode):
    """From here on, `extract` returns the key of a message."""

    extract: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Collect(GraphNode):
    """From here on, all messages have the same key."""


@dataclass(frozen=True, slots=True, eq=False)
class End(GraphNode):
    """An end: outputs go to each of the sinks."""

    sinks: tuple[SinkConfig | ComputationSink, ...]


class Pipeline:
    """Part of an application: it begins with sources, and ends in sinks or in open ends, which the next method continues.

    Building a pipeline only describes it. Nothing runs before `build_application`.
    """

    def __init__(self, open_ends: tuple[GraphNode, ...], ends: tuple[End, ...] = ()) -> None:
        self.open_ends, self.ends = open_ends, ends

    def to(self, computation: Any, *, name: str | None = None) -> Pipeline:
        """Pass each message to a computation, a state computation, or windows. What it returns goes to the next stage.

        `name`: the name of the stage, under which its states are stored. None: the computation's name, with " 2" for a second use in
        the same application. Raises `DeclarationError`.
        """
        declared = _stage_of(computation)
        return self._then(Use(declared, name, inputs=self._inputs("to", declared.name)))

    def key_by(self, key_extractor: Callable[[Any], Any]) -> Pipeline:
        """From here on, the extractor returns the key of a message, which may be on another partition. Raises `DeclarationError`."""
        return self._then(KeyBy(_looked_over(key_extractor), inputs=self._inputs("key_by", "key_by")))

    def collect(self) -> Pipeline:
        """From here on, all messages have the same key: one state object, and no parallelism."""
        return self._then(Collect(inputs=self._inputs("collect", "collect")))

    def merge(self, other: Pipeline) -> Pipeline:
        """Join two pipelines. Both must be open, or both must end in sinks. Raises `DeclarationError`."""
        if not isinstance(other, Pipeline):
            raise DeclarationError(f"merge(): expected a pipeline, got {other!r:.80}")
        if bool(self.open_ends) != bool(other.open_ends):
            raise DeclarationError("merge(): one pipeline ends in a sink and the other does not. Merge before to_sink()")
        return Pipeline(_together(self.open_ends, other.open_ends), _together(self.ends, other.ends))

    def to_sink(self, sink: Any) -> Pipeline:
        """Send outputs to a sink. Nothing can follow. Raises `DeclarationError` if `sink` is not a sink."""
        return self.to_sinks([sink])

    def to_sinks(self, sinks: Iterable[Any]) -> Pipeline:
        """Send outputs to each sink; `[]` for a pipeline that only keeps states. Raises `DeclarationError`."""
        if isinstance(sinks, str | bytes) or not isinstance(sinks, Iterable):
            raise DeclarationError(f"to_sinks(): expected a list of sinks, got {sinks!r:.80}")
        configs = tuple(sink_config(sink) for sink in sinks)
        return Pipeline((), (*self.ends, End(configs, inputs=self._inputs("to_sink", "to_sink"))))

    def clone(self) -> Pipeline:
        """The same pipeline. Pipelines never change, so you can continue both."""
        return Pipeline(self.open_ends, self.ends)

    def _inputs(self, verb: str, what: str) -> tuple[GraphNode, ...]:
        if not self.open_ends:
            raise DeclarationError(f"{verb}({what!r}): the pipeline ends in a sink already. Nothing can follow a sink")
        return self.open_ends

    def _then(self, node: GraphNode) -> Pipeline:
        return Pipeline((node,), self.ends)


def _together(one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*one, *(node for node in other if node not in one))


def _stage_of(given: Any) -> Computation:
    if isinstance(given, RangeWindows | CountWindows):
        return _of_windows(given)
    if isinstance(given, RangeWindowsBuilder | CountWindowsBuilder):
        raise DeclarationError("to(): these windows have no aggregation. End them with .over(…)")
    declared = getattr(given, "computation", given)
    if not isinstance(declared, Computation):
        raise DeclarationError(
            f"to(): expected a computation, a state computation or windows, got {given!r:.80}. Decorate the function with "
            "@computation or @state_computation"
        )
    if declared.role == "task":
        raise DeclarationError(
            f"to({declared.name!r}): this computation is declared with key=. In a pipeline key_by() sets the key: remove key="
        )
    return declared


def _of_windows(windows: RangeWindows | CountWindows) -> Computation:
    """Windows as a stage. Its state is the windows' content."""
    output = windows.aggregation.output
    return Computation(
        name=windows.name,
        function=output,
        extract=lambda _: None,
        codec=MessageCodec(Any, "message"),
        state=StateClass(windows.state_class, windows.modules),
        takes_context=False,
        plain_call=False,
        role="stage",
        windows=windows,
    )


def nodes_before(ends: Iterable[GraphNode]) -> list[GraphNode]:
    """The ends and every node that leads to one, in the order of writing down: each node comes after its inputs."""
    found: set[GraphNode] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.inputs
    return sorted(found, key=lambda node: node.number)


#: Functions of one argument that have no signature to check.
_OF_THE_LANGUAGE = (type, types.BuiltinFunctionType, operator.itemgetter, operator.attrgetter, operator.methodcaller)


def _looked_over(extract: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if isinstance(extract, _OF_THE_LANGUAGE):
        return extract
    try:
        return key_extractor(extract)
    except DeclarationError as error:
        raise DeclarationError(f"key_by(): {error}") from error
