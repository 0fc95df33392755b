"""A pipeline as it is written down: immutable nodes, each knowing what comes before it.

    source ── to ── key_by ── to ── to_sink
    source ──────────┘ (merge)

Each verb gives a new `Pipeline` and leaves the old as it was, so one beginning can have several continuations: they share its nodes.
"""

from __future__ import annotations

import itertools
import operator
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from celery_partitions.model.computation import Computation, key_extractor
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.messages import MessageCodec
from celery_partitions.model.state import StateClass
from celery_partitions.pipeline.sinks import ComputationSink, SinkConfig, sink_config
from celery_partitions.pipeline.sources import SourceConfig
from celery_partitions.pipeline.window_stage import CountWindows, RangeWindows
from celery_partitions.pipeline.windows import CountWindowsBuilder, RangeWindowsBuilder

_numbers = itertools.count()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GraphNode:
    """One node; `number`: the order of writing down."""

    inputs: tuple[GraphNode, ...] = ()
    number: int = field(default_factory=lambda: next(_numbers))


@dataclass(frozen=True, slots=True, eq=False)
class Source(GraphNode):
    """Where messages come from; with no `config`, from producers that send to the task of its name."""

    name: str
    config: SourceConfig | None
    event_time: Callable[[Any], Any] | None
    deduplicate_seconds: float | None
    #: What its messages are; None: what the annotations after it say.
    type: Any


@dataclass(frozen=True, slots=True, eq=False)
class Use(GraphNode):
    """A stage: one use of a computation, or windows."""

    computation: Computation
    #: As the user pinned it.
    name: str | None


@dataclass(frozen=True, slots=True, eq=False)
class KeyBy(GraphNode):
    """From here on messages have the key that `extract` gives."""

    extract: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Collect(GraphNode):
    """From here on messages have one key."""


@dataclass(frozen=True, slots=True, eq=False)
class End(GraphNode):
    """What leaves: to each of the sinks."""

    sinks: tuple[SinkConfig | ComputationSink, ...]


class Pipeline:
    """A part of an application: from sources on, up to open ends, which the next verb continues, or to sinks."""

    def __init__(self, open_ends: tuple[GraphNode, ...], ends: tuple[End, ...] = ()) -> None:
        self.open_ends, self.ends = open_ends, ends

    def to(self, computation: Any, *, name: str | None = None) -> Pipeline:
        """Give each message to a computation, a state computation, or windows; what it returns goes on.

        `name`: the stage's, under which its states are stored; None: the computation's, and for a second use in one application
        "NAME 2". Raises `DeclarationError`.
        """
        declared = _stage_of(computation)
        return self._then(Use(declared, name, inputs=self._inputs("to", declared.name)))

    def key_by(self, key_extractor: Callable[[Any], Any]) -> Pipeline:
        """From here on a message's key is what the extractor gives. Raises `DeclarationError`."""
        return self._then(KeyBy(_looked_over(key_extractor), inputs=self._inputs("key_by", "key_by")))

    def collect(self) -> Pipeline:
        """From here on all messages have one key: one state object, and no parallelism."""
        return self._then(Collect(inputs=self._inputs("collect", "collect")))

    def merge(self, other: Pipeline) -> Pipeline:
        """The messages of both. Either both go on, or both have ended in sinks. Raises `DeclarationError`."""
        if not isinstance(other, Pipeline):
            raise DeclarationError(f"merge() wants a pipeline, not {other!r:.80}")
        if bool(self.open_ends) != bool(other.open_ends):
            raise DeclarationError("merge(): one of the pipelines has ended in a sink, and the other goes on")
        return Pipeline(_together(self.open_ends, other.open_ends), _together(self.ends, other.ends))

    def to_sink(self, sink: Any) -> Pipeline:
        """Let what comes leave to a sink; nothing can follow. Raises `DeclarationError` for what is no sink."""
        return self.to_sinks([sink])

    def to_sinks(self, sinks: Iterable[Any]) -> Pipeline:
        """Let what comes leave to each sink; to none of `[]`, where only states are wanted. Raises `DeclarationError`."""
        if isinstance(sinks, str | bytes) or not isinstance(sinks, Iterable):
            raise DeclarationError(f"to_sinks() wants a list of sinks, not {sinks!r:.80}")
        configs = tuple(sink_config(sink) for sink in sinks)
        return Pipeline((), (*self.ends, End(configs, inputs=self._inputs("to_sink", "to_sink"))))

    def clone(self) -> Pipeline:
        """The same pipeline again: a pipeline never changes, so that both can be continued."""
        return Pipeline(self.open_ends, self.ends)

    def _inputs(self, verb: str, what: str) -> tuple[GraphNode, ...]:
        if not self.open_ends:
            raise DeclarationError(f"{verb}({what!r}): the pipeline has ended in a sink; nothing can follow one")
        return self.open_ends

    def _then(self, node: GraphNode) -> Pipeline:
        return Pipeline((node,), self.ends)


def _together(one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*one, *(node for node in other if node not in one))


def _stage_of(given: Any) -> Computation:
    if isinstance(given, RangeWindows | CountWindows):
        return _of_windows(given)
    if isinstance(given, RangeWindowsBuilder | CountWindowsBuilder):
        raise DeclarationError("to(): these windows have no aggregation yet: end them with .over(…)")
    declared = getattr(given, "computation", given)
    if not isinstance(declared, Computation):
        raise DeclarationError(
            f"to() wants a computation, a state computation or windows, not {given!r:.80}. Decorate the function with "
            "@computation or @state_computation"
        )
    if declared.role == "task":
        raise DeclarationError(
            f"to({declared.name!r}): it was declared with a key= of its own. In a pipeline key_by gives the key: leave key= out"
        )
    return declared


def _of_windows(windows: RangeWindows | CountWindows) -> Computation:
    """Windows as a stage: what they hold is its state."""
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


#: Functions of one argument, which can't be asked for that.
_OF_THE_LANGUAGE = (type, types.BuiltinFunctionType, operator.itemgetter, operator.attrgetter, operator.methodcaller)


def _looked_over(extract: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if isinstance(extract, _OF_THE_LANGUAGE):
        return extract
    try:
        return key_extractor(extract)
    except DeclarationError as error:
        raise DeclarationError(f"key_by(): {error}") from error
