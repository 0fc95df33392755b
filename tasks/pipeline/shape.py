"""The shape of a built pipeline, for drawings: its sources, stages and sinks, and what leads where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from celery_partitions.model.computation import Computation, HopNode, Node, SinkNode, StageNode
from celery_partitions.pipeline.sinks import SinkConfig

#: `task`: a computation of its own, to which the pipeline sends.
PartKind = Literal["source", "stage", "sink", "task"]
#: `step`: both run in one step, and messages wait nowhere. `queue`: messages wait in the queues of the partitions. `sink`: outputs leave.
EdgeKind = Literal["step", "queue", "sink"]


@dataclass(frozen=True, slots=True)
class Part:
    """A source, a stage or a sink. Names of one kind are unique in a pipeline."""

    kind: PartKind
    name: str
    #: Of a source or a sink: what it reads or writes. "": producers send to the source.
    place: str = ""
    #: Whether the source or the sink has a process of its own (`partitions source`, `partitions sink`).
    has_process: bool = False


@dataclass(frozen=True, slots=True)
class Edge:
    start: Part
    end: Part
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class Shape:
    """A pipeline's parts in the order of the flow, and its edges."""

    name: str
    parts: tuple[Part, ...]
    edges: tuple[Edge, ...]


def shape_of(name: str, sources: Iterable[Computation], source_configs: Mapping[str, object], sinks: Mapping[str, SinkConfig]) -> Shape:
    """The shape of a built pipeline. `source_configs`: of the sources that have a process, by name."""
    parts: dict[Part, None] = {}
    edges: dict[Edge, None] = {}
    entered: set[Computation] = set()

    def walk(start: Part, nodes: Iterable[Node]) -> None:
        for node in nodes:
            match node:
                case StageNode(computation, then):
                    end = Part("stage", computation.name)
                    parts[end] = None
                    edges[Edge(start, end, "step")] = None
                    walk(end, then)
                case HopNode(_, stage):
                    end = Part("stage" if stage.role == "stage" else "task", stage.name)
                    parts[end] = None
                    edges[Edge(start, end, "queue")] = None
                    if stage not in entered and stage.role == "stage":
                        entered.add(stage)
                        for root in stage.roots:  # the stage itself
                            if isinstance(root, StageNode):
                                walk(end, root.then)
                case SinkNode(sink):
                    config = sinks[sink.name]
                    end = Part("sink", sink.name, type(config).__name__, config.has_process)
                    parts[end] = None
                    edges[Edge(start, end, "sink")] = None

    for source in sources:
        config = source_configs.get(source.name)
        part = Part("source", source.name, "" if config is None else type(config).__name__, config is not None)
        parts[part] = None
        walk(part, source.roots)
    return Shape(name, tuple(parts), tuple(edges))
