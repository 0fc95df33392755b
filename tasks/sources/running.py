"""A source's process, by the source's name."""

from __future__ import annotations

from collections.abc import Callable

from tasks.model.computation import Computation
from tasks.model.errors import SetupError
from tasks.pipeline.sources import SourceConfig, TCPSourceConfig
from tasks.producer.installation import Installation
from tasks.producer.pipelines import applications
from tasks.sources.stopping import Stop
from tasks.sources.tcp import TCPSource


def find_source(name: str) -> tuple[Computation, SourceConfig]:
    """A source that a process reads. Raises `SetupError` that names those there are."""
    configs: dict[str, SourceConfig] = {}
    for application in applications.values():
        configs |= application.source_configs
        if name in application.source_configs:
            return application.sources[name], application.source_configs[name]
    known = ", ".join(repr(one) for one in sorted(configs)) or "none"
    if any(name in application.sources for application in applications.values()):
        raise SetupError(
            f"source {name!r} has no config: no process reads it, producers send to it, by {name}.delay(…), send_many(…) or "
            f"`partitions send`. Sources that a process reads: {known}"
        )
    raise SetupError(f"no source is named {name!r}; sources that a process reads: {known}")


def run_source(installation: Installation, name: str, say_line: Callable[[str], None]) -> None:
    """Read a source until it ends, or the process is told to. Called in the main thread. Raises `SetupError`."""
    computation, config = find_source(name)
    stop = Stop()
    stop.listen()
    try:
        match config:
            case TCPSourceConfig():
                TCPSource(installation, computation, config, stop).run(say_line)
            case _:
                raise SetupError(f"source {name!r}: no process reads a {type(config).__name__}")
    finally:
        stop.close()
