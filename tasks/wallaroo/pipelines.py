"""Wallaroo's `source` and `build_application`, where a source, a computation and a sink may have the same name.

Our names identify Celery tasks, processes and states. So a second use of a name is renamed here, in the same way in every process:
"reverse source", "127.0.0.1:7002 2".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from celery_partitions.model.errors import DeclarationError
from celery_partitions.pipeline.graph import End, GraphNode, Pipeline, Source, Use, nodes_before
from celery_partitions.pipeline.sinks import ComputationSink, SinkConfig
from celery_partitions.pipeline.sinks import TCPSinkConfig as AnyTCPSink
from celery_partitions.pipeline.sources import SourceConfig
from celery_partitions.producer import pipelines
from celery_partitions.producer.pipelines import Application, SourcePipeline
from celery_partitions.wallaroo.ends import GenSourceConfig


def source(name: str, source_config: Any, *, event_time: Callable[[Any], Any] | None = None) -> SourcePipeline:
    """Start a pipeline. `source_config`: a `TCPSourceConfig`, a `GenSourceConfig`, or any of our source configs.

    `event_time` (not in Wallaroo): returns a message's time, for windows.
    """
    if not isinstance(source_config, SourceConfig) and hasattr(source_config, "initial_value"):
        source_config = GenSourceConfig(source_config)
    return pipelines.source(name, source_config, event_time=event_time, type=Any)


def build_application(name: str, pipeline: Pipeline) -> Application:
    """Build the application. Raises `DeclarationError`, which names the stage."""
    if not isinstance(pipeline, Pipeline):
        raise DeclarationError(f"application {name!r}: build_application() expects a pipeline, not {pipeline!r:.80}")
    return pipelines.build_application(name, told_apart(pipeline))


def told_apart(pipeline: Pipeline) -> Pipeline:
    """The same pipeline with unique names for sources and sinks. Stages keep their names."""
    nodes = nodes_before([*pipeline.ends, *pipeline.open_ends])
    taken = {node.name or node.computation.name for node in nodes if isinstance(node, Use)}
    sinks: dict[str, SinkConfig] = {}
    copies: dict[GraphNode, GraphNode] = {}
    for node in nodes:
        inputs = tuple(copies[before] for before in node.inputs)
        if isinstance(node, Source):
            name = _free(node.name, taken, " source")
            taken.add(name)
            copies[node] = replace(node, name=name, inputs=inputs)
        elif isinstance(node, End):
            copies[node] = replace(node, sinks=tuple(_sink(sink, sinks) for sink in node.sinks), inputs=inputs)
        else:
            copies[node] = replace(node, inputs=inputs)
    ends = tuple(copies[end] for end in pipeline.ends)
    return Pipeline(tuple(copies[node] for node in pipeline.open_ends), tuple(end for end in ends if isinstance(end, End)))


def _sink(config: SinkConfig | ComputationSink, known: dict[str, SinkConfig]) -> SinkConfig | ComputationSink:
    """The config, renamed if a different config has its name."""
    if isinstance(config, ComputationSink):
        return config
    if isinstance(config, AnyTCPSink) and known.get(config.sink_name, config) != config:
        alike = next((one for one in known.values() if _same_but_for_the_name(one, config)), None)
        config = alike or replace(config, name=_free(config.sink_name, set(known), ""))
    known.setdefault(config.sink_name, config)
    return config


def _same_but_for_the_name(one: SinkConfig, other: AnyTCPSink) -> bool:
    return isinstance(one, AnyTCPSink) and replace(one, name=None) == replace(other, name=None)


def _free(name: str, taken: set[str], suffix: str) -> str:
    """The name; if taken, with the suffix, and if needed with a number."""
    if name not in taken:
        return name
    base, number = name + suffix, 1 if suffix else 2
    while (f"{base} {number}" if number > 1 else base) in taken:
        number += 1
    return f"{base} {number}" if number > 1 else base
