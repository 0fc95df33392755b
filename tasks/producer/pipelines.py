"""`source` and `build_application`: how you begin a pipeline, and how you make it run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery_partitions.admin.attention_facts import Ends
from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import seconds_or_none
from celery_partitions.model.errors import DeclarationError, OneKeyWarning, SetupError
from celery_partitions.pipeline.builder import Built, build
from celery_partitions.pipeline.graph import Pipeline, Source
from celery_partitions.pipeline.shape import Shape, shape_of
from celery_partitions.pipeline.sinks import SinkConfig
from celery_partitions.pipeline.sources import SourceConfig
from celery_partitions.producer.handle import StateComputation
from celery_partitions.producer.sendable import Sending
from celery_partitions.runtime.registry import add_computation, declared

#: Every application built in this process, by name.
applications: dict[str, Application] = {}


class SourcePipeline(Sending, Pipeline):
    """The beginning of a pipeline. After `build_application` you can send messages to it, like to a computation."""

    def __init__(self, node: Source) -> None:
        super().__init__((node,))
        self.node = node

    @property
    def name(self) -> str:
        """The task name that producers send."""
        return self.node.name

    def _receiver(self) -> Computation:
        """The source as a computation. Raises `SetupError` before `build_application`."""
        found = declared.get(self.name)
        if found is None or found.role != "source":
            raise SetupError(f"source {self.name!r} belongs to no application yet: call build_application() first")
        return found


class Application:
    """A built pipeline. Its sources are Celery tasks, and its stages have states."""

    def __init__(self, built: Built) -> None:
        self._built = built

    @property
    def name(self) -> str:
        return self._built.name

    @property
    def sources(self) -> dict[str, Computation]:
        """The sources, by name."""
        return dict(self._built.sources)

    @property
    def stages(self) -> dict[str, Computation]:
        """The stages, by name."""
        return dict(self._built.stages)

    @property
    def sinks(self) -> dict[str, SinkConfig]:
        """The sinks, by name. `partitions sink NAME` serves those outside Redis."""
        return dict(self._built.sinks)

    @property
    def source_configs(self) -> dict[str, SourceConfig]:
        """The configurations of the sources that `partitions source NAME` reads, by name."""
        return dict(self._built.source_configs)

    @property
    def shape(self) -> Shape:
        """Its parts and what leads where, for drawings."""
        return shape_of(self.name, self._built.sources.values(), self._built.source_configs, self._built.sinks)

    def stage(self, name: str) -> StateComputation[Any, Any, Any]:
        """Access to a stage's states: `application.stage("count 2").state("AAPL")`. Raises `DeclarationError` for an unknown name."""
        found = self._built.stages.get(name)
        if found is None or found.state is None:
            known = ", ".join(repr(stage.name) for stage in self._built.stages.values() if stage.state is not None)
            raise DeclarationError(f"application {self.name!r} has no stage {name!r} with a state; it has {known or 'none'}")
        return StateComputation(found)

    def __repr__(self) -> str:
        return f"<Application {self.name!r}: {', '.join([*self._built.sources, *self._built.stages, *self._built.sinks])}>"


def source(
    name: str,
    config: SourceConfig | None = None,
    *,
    event_time: Callable[[Any], Any] | None = None,
    max_event_time_ahead: timedelta | float | None = timedelta(hours=1),
    deduplicate: timedelta | float | None = None,
    type: Any = None,
) -> SourcePipeline:
    """Begin a pipeline with the messages of a source.

    `name`: without a `config`, the Celery task that producers send; with one, `celery -A APP partitions source NAME` reads it.
    `event_time`: returns the time of a message for windows, in seconds since the epoch or as a datetime; None: the time of arrival.
    `max_event_time_ahead`: a message whose event time is further ahead of the server's clock becomes a dead letter, because it would close
    the windows of its key, and later messages would be too late; None: any time is accepted.
    `deduplicate`: seconds or a timedelta; a message whose id was seen within this time has no effect. `type`: the type of the messages,
    like the annotation of a computation's first parameter; None: the first annotation after the source. Raises `DeclarationError`.
    """
    if not isinstance(name, str) or not name.strip():
        raise DeclarationError("source(): the name must be a non-empty str, because producers send to it")
    if config is not None and not isinstance(config, SourceConfig):
        raise DeclarationError(f"source {name!r}: config must be a TCPSourceConfig, GenSourceConfig, FileSource or StreamSource, not {config!r:.80}")
    if event_time is not None and not callable(event_time):
        raise DeclarationError(f"source {name!r}: event_time must be a function of one message")
    ahead = seconds_or_none(name, "max_event_time_ahead", max_event_time_ahead)
    return SourcePipeline(Source(name, config, event_time, seconds_or_none(name, "deduplicate", deduplicate), type, ahead))


def build_application(name: str, pipeline: Pipeline) -> Application:
    """Check a pipeline and register it with the Celery app. Call it once, at import; every worker must build the same pipeline.

    Raises `DeclarationError`, which names the stage. Warns with `OneKeyWarning` about stages that have only one key.
    """
    built = build(name, pipeline)
    for text in built.warnings:
        warnings.warn(OneKeyWarning(text), stacklevel=2)
    application = Application(built)
    for computation in (*application.sources.values(), *application.stages.values()):
        add_computation(computation)
    applications[name] = application
    return application


def shapes() -> list[Shape]:
    """The shapes of every application built in this process."""
    return [one.shape for one in applications.values()]


def ends_with_processes() -> Ends:
    """The names of the sinks and sources that have a process of their own, of every application built in this process."""
    every = applications.values()
    sinks = {sink.sink_name for one in every for sink in one.sinks.values() if sink.has_process}
    return Ends(tuple(sorted(sinks)), tuple(sorted({name for one in every for name in one.source_configs})))
