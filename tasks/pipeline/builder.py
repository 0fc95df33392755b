"""Builds the computations of a pipeline from its graph: one for each source, and one for each stage.

Consecutive stages under the same key are fused: they run in one step and one commit. Each `key_by` between stages is a hop to another
partition. Before the first `key_by`, all messages of a source have one key, which preserves their order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from celery_partitions.model.computation import (
    Computation,
    HopNode,
    Node,
    SinkNode,
    StageNode,
    timer_task,
)
from celery_partitions.model.errors import DeclarationError, KeyExtractionError
from celery_partitions.model.names_given import check_name
from celery_partitions.model.sinks import ListSink, Sink, StreamSink
from celery_partitions.pipeline.annotations import check_types, codec_of_source
from celery_partitions.pipeline.graph import Collect, End, GraphNode, KeyBy, Pipeline, Source, Use, nodes_before
from celery_partitions.pipeline.sinks import ComputationSink, SinkConfig
from celery_partitions.pipeline.sources import SourceConfig


@dataclass(frozen=True, slots=True)
class Built:
    """A built application. Messages, states and processes are addressed by the names in it."""

    name: str
    sources: dict[str, Computation]
    stages: dict[str, Computation]
    #: The sources that `partitions source NAME` reads.
    source_configs: dict[str, SourceConfig]
    sinks: dict[str, SinkConfig]
    #: Warnings about stages with only one key, which have no parallelism.
    warnings: tuple[str, ...]


def build(name: str, pipeline: Pipeline) -> Built:
    """Check a pipeline and build its computations. Raises `DeclarationError`, which names the stage."""
    if not isinstance(name, str) or not name.strip():
        raise DeclarationError("build_application() needs a name and a pipeline")
    check_name("the application", name)
    if not isinstance(pipeline, Pipeline):
        raise DeclarationError(f"application {name!r}: build_application() needs a pipeline, not {pipeline!r:.80}")
    if pipeline.open_ends:
        last = ", ".join(_say(node) for node in pipeline.open_ends)
        raise DeclarationError(
            f"application {name!r}: the pipeline has no sink after {last}. End it with .to_sink(…), or with .to_sinks([]) if "
            "you need only the states"
        )
    return _Building(name, pipeline).built()


class _Building:
    def __init__(self, name: str, pipeline: Pipeline) -> None:
        self.name, self.scope = name, f"pipeline {name}"
        self.nodes = nodes_before(pipeline.ends)
        self.after: dict[GraphNode, list[GraphNode]] = defaultdict(list)
        for node in self.nodes:
            for before in node.inputs:
                self.after[before].append(node)
        self.uses = [node for node in self.nodes if isinstance(node, Use)]
        self.names = self.stage_names()
        self.modules = self.modules_named()
        self.has_event_time = any(isinstance(node, Source) and node.event_time is not None for node in self.nodes)
        self.stages = {use: self.stage(use) for use in self.uses}
        self.stage_nodes = {use: StageNode(stage) for use, stage in self.stages.items()}
        self.sinks: dict[str, SinkConfig] = {}
        self.places: dict[str, type[Sink]] = {}
        self.warnings: dict[str, None] = {}
        self.one_keys = self.one_keys_of_beginnings()

    def built(self) -> Built:
        check_types(self.name, self.after, self.names)
        for use, node in self.stage_nodes.items():
            node.then += self.following(use)
            stage = self.stages[use]
            stage.roots.append(node)
            for timer, handler in use.computation.handlers.items():
                stage.handlers[timer] = replace(
                    handler,
                    name=timer_task(stage.name, timer),
                    owner=stage,
                    scope=stage.scope,
                    has_event_time=stage.has_event_time,
                    modules=stage.modules,
                    roots=[node],
                    stateful=stage.stateful,
                )
        sources = self.sources()
        for computation in (*self.stages.values(), *sources.values()):
            computation.stateful.extend(_states_under(computation.roots))
        configs = {
            node.name: node.config for node in self.nodes if isinstance(node, Source) and node.config is not None
        }
        stages = {one.name: one for stage in self.stages.values() for one in (stage, *stage.handlers.values())}
        return Built(self.name, sources, stages, configs, self.sinks, tuple(self.warnings))

    def stage_names(self) -> dict[Use, str]:
        """Each stage's name: its `name=`, otherwise its computation's name. A second use is called "NAME 2". Adding other stages does not
        change names."""
        self.refuse_namesakes()
        pinned = [use.name for use in self.uses if use.name is not None]
        names: dict[Use, str] = {}
        count: dict[str, int] = defaultdict(int)
        for use in self.uses:
            if use.name is not None:
                names[use] = use.name
                continue
            base = use.computation.name
            count[base] += 1
            names[use] = base if count[base] == 1 else f"{base} {count[base]}"
        taken = [*names.values(), *(node.name for node in self.nodes if isinstance(node, Source))]
        twice = sorted({one for one in taken if taken.count(one) > 1})
        if twice:
            raise DeclarationError(
                f"application {self.name!r}: {', '.join(map(repr, twice))} is the name of more than one stage or source. "
                "Name a stage with .to(…, name=…)"
            )
        if any(not isinstance(one, str) or not one.strip() for one in pinned):
            raise DeclarationError(f"application {self.name!r}: a stage's name= must be a non-empty str")
        return names

    def refuse_namesakes(self) -> None:
        """Refuse two computations with one name. Otherwise the order of lines would decide which one is "NAME 2", and after a reordering each
        would use the other's states."""
        functions: dict[str, Callable[..., Any]] = {}
        for use in self.uses:
            if use.name is None and use.computation.windows is None:
                name, function = use.computation.name, use.computation.function
                if functions.setdefault(name, function) is not function:
                    raise DeclarationError(
                        f"application {self.name!r}: two computations are called {name!r}. Rename one, or name its stage with "
                        ".to(…, name=…)"
                    )

    def modules_named(self) -> tuple[str, ...]:
        """The modules in which the classes of the pipeline's values may be defined: those of its functions and state classes."""
        functions: list[Any] = [use.computation.function for use in self.uses if use.computation.windows is None]
        functions += [type(getattr(use.computation.windows, "aggregation", None)) for use in self.uses]
        functions += [node.extract for node in self.nodes if isinstance(node, KeyBy)]
        functions += [use.computation.state.cls for use in self.uses if use.computation.state is not None]
        for node in self.nodes:
            if isinstance(node, Source) and node.config is not None:
                functions += [getattr(node.config, "decoder", None), getattr(node.config, "generator", None)]
        modules = {getattr(one, "__module__", None) for one in functions}
        return tuple(sorted(module for module in modules if isinstance(module, str) and module != "builtins"))

    def stage(self, use: Use) -> Computation:
        declared = use.computation
        if declared.deduplicate_seconds is not None:
            raise DeclarationError(
                f"application {self.name!r}: stage {self.names[use]!r} has deduplicate=. In a pipeline, give deduplicate= to source()"
            )
        return replace(
            declared,
            name=self.names[use],
            role="stage",
            takes_values=True,
            plain_call=False,
            scope=self.scope,
            has_event_time=self.has_event_time,
            modules=self.modules,
            roots=[],
            stateful=[],
            handlers={},
            formerly=declared.formerly if self.names[use] == declared.name else (),
        )

    def one_keys_of_beginnings(self) -> dict[GraphNode, str]:
        """The single key of each collect(), and of each source that no key_by follows immediately.

        All of them that reach the same stateful stage without a key_by share that stage's key, so that it has one state.
        """
        groups: list[tuple[set[GraphNode], set[GraphNode]]] = []
        for node in self.nodes:
            if not (isinstance(node, Collect) or (isinstance(node, Source) and not self.is_keyed_at_once(node))):
                continue
            joined: set[GraphNode] = {node}
            members = set(self.unkeyed_after(node))
            for other in list(groups):
                if any(isinstance(one, Use) and one.computation.state is not None for one in other[1] & members):
                    joined |= other[0]
                    members |= other[1]
                    groups.remove(other)
            groups.append((joined, members))
        keys: dict[GraphNode, str] = {}
        for joined, members in groups:
            collected = {use for node in joined if isinstance(node, Collect) for use in self.after[node]}
            stateful = [use for use in self.uses if use in members and use.computation.state is not None]
            for use in self.uses:
                if use in collected or use in stateful:
                    self.warn(self.names[use], "it comes after collect()" if use in collected else "there is no key_by before it")
            for node in joined:
                follow = [one for one in self.after[node] if isinstance(one, Use)]
                alone = node.name if isinstance(node, Source) else self.names[follow[0]] if follow else self.name
                keys[node] = self.names[stateful[0]] if stateful else alone
        return keys

    def is_keyed_at_once(self, source: Source) -> bool:
        return len(self.after[source]) == 1 and isinstance(self.after[source][0], KeyBy | Collect)

    def unkeyed_after(self, node: GraphNode) -> Iterator[GraphNode]:
        for after in self.after[node]:
            if isinstance(after, Use):
                yield after
                yield from self.unkeyed_after(after)

    def following(self, node: GraphNode) -> list[Node]:
        """What receives the outputs of a node under its current key."""
        nodes: list[Node] = []
        for after in self.after[node]:
            if isinstance(after, Use):
                nodes.append(self.stage_nodes[after])
            elif isinstance(after, End):
                nodes += self.leaving(after, None)
            else:
                nodes += self.under(after)
        return nodes

    def under(self, node: GraphNode) -> list[Node]:
        """What receives messages after a key_by or collect, coming from another key."""
        extract = self.extractor(node)
        nodes: list[Node] = []
        for after in self.after[node]:
            if isinstance(after, Use):
                nodes.append(HopNode(extract, self.stages[after]))
            elif isinstance(after, End):
                nodes += self.leaving(after, extract)
            else:
                nodes += self.under(after)
        return nodes

    def extractor(self, node: GraphNode) -> Callable[[Any], Any]:
        if isinstance(node, KeyBy):
            return node.extract
        key = self.one_keys[node]
        return lambda _: key

    def leaving(self, end: End, extract: Callable[[Any], Any] | None) -> list[Node]:
        nodes: list[Node] = []
        for config in end.sinks:
            if isinstance(config, ComputationSink):
                nodes.append(HopNode(config.computation.extract, config.computation))
                continue
            check_name(f"application {self.name!r}: the sink", config.sink_name)
            known = self.sinks.setdefault(config.sink_name, config)
            if known is not config and known != config:
                raise DeclarationError(
                    f"application {self.name!r}: two sinks are called {config.sink_name!r}. Give one a name="
                )
            sink = config.sink()
            place = sink.stream if isinstance(sink, StreamSink) else sink.list if isinstance(sink, ListSink) else None
            if place is not None and self.places.setdefault(place, type(sink)) is not type(sink):
                raise DeclarationError(f"application {self.name!r}: {place!r} can't be both a Redis list and a Redis stream")
            nodes.append(SinkNode(sink, extract))
        return nodes

    def sources(self) -> dict[str, Computation]:
        sources = {}
        for node in self.nodes:
            if isinstance(node, Source):
                sources[node.name] = self.source(node)
        if not sources:
            raise DeclarationError(f"application {self.name!r}: the pipeline has no source")
        return sources

    def source(self, node: Source) -> Computation:
        first: GraphNode = node
        extract: Callable[[Any], Any]
        if self.is_keyed_at_once(node):
            first = self.after[node][0]
            while len(self.after[first]) == 1 and isinstance(self.after[first][0], KeyBy | Collect):
                first = self.after[first][0]
            extract = self.extractor(first)
        else:
            key = self.one_keys[node]
            extract = lambda _: key  # noqa: E731
        return Computation(
            name=node.name,
            function=_entrance(node.name, self.scope),
            extract=extract,
            codec=codec_of_source(node, self.after, self.names),
            state=None,
            takes_context=False,
            plain_call=False,
            deduplicate_seconds=node.deduplicate_seconds,
            role="source",
            event_time=node.event_time,
            max_event_time_ahead_seconds=node.max_event_time_ahead_seconds,
            takes_values=node.config is not None,
            scope=self.scope,
            modules=self.modules,
            roots=self.following(first),
        )

    def warn(self, stage: str, why: str) -> None:
        text = f"application {self.name!r}: stage {stage!r} has one key, and so one state object and no parallelism: {why}"
        self.warnings[text] = None


def _states_under(roots: Iterable[Node]) -> list[Computation]:
    """The stateful stages that run when `roots` receive a message."""
    found: dict[Computation, None] = {}
    for node in roots:
        if isinstance(node, StageNode):
            if node.computation.state is not None:
                found[node.computation] = None
            found.update(dict.fromkeys(_states_under(node.then)))
    return list(found)


def _entrance(name: str, scope: str) -> Callable[[Any], None]:
    """A placeholder for a source's function. The source's stages run instead."""

    def entrance(message: Any) -> None:
        raise KeyExtractionError(f"{name!r} is the source of {scope}, and its messages run only in partition workers")

    entrance.__qualname__ = entrance.__name__ = name
    entrance.__module__ = scope
    entrance.__doc__ = f"The source of {scope}."
    return entrance


def _say(node: GraphNode) -> str:
    match node:
        case Source():
            return f"source {node.name!r}"
        case Use():
            return repr(node.computation.name)
        case KeyBy():
            return f"key_by({getattr(node.extract, '__name__', node.extract)})"
    return type(node).__name__.lower() + "()"
