"""A source's process, by the source's name; of TCP sources, several in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import SetupError
from celery_partitions.pipeline.sources import FileSource, GenSourceConfig, SourceConfig, StreamSource, TCPSourceConfig
from celery_partitions.producer.pipelines import applications
from celery_partitions.runtime.installation import Installation
from celery_partitions.sources.feed import Feed
from celery_partitions.sources.file import FileReader
from celery_partitions.sources.generator import GeneratorReader
from celery_partitions.sources.leased_source import LeasedSource, Reader
from celery_partitions.sources.stop_signal import EndAtOnce, Stop
from celery_partitions.sources.stream import StreamReader
from celery_partitions.sources.tcp import TCPSources


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


def run_sources(installation: Installation, names: Sequence[str], say_line: Callable[[str], None]) -> None:
    """Read a source until it ends, or the process is told to; or several TCP sources. Called in the main thread. Raises `SetupError`."""
    stop = Stop()
    stop.listen()
    try:
        found = [find_source(name) for name in dict.fromkeys(names)]
        if len(found) == 1 and not isinstance(found[0][1], TCPSourceConfig):
            run_leased(installation, *found[0], stop)
            return
        feeds = []
        for computation, config in found:
            if not isinstance(config, TCPSourceConfig):
                raise SetupError(f"source {computation.name!r} is no TCP source: only those are read several in one process")
            feeds.append(Feed(installation, computation, config, stop))
        TCPSources(feeds, stop).run(say_line)
    except EndAtOnce as told:
        raise SystemExit(told.code) from None
    finally:
        stop.close()


def run_leased(installation: Installation, computation: Computation, config: SourceConfig, stop: Stop) -> None:
    """Read a source that one process at a time reads."""
    match config:
        case GenSourceConfig(generator=generator):
            reader: Reader = GeneratorReader(installation, computation, generator, stop)
        case FileSource():
            reader = FileReader(installation, computation, config, stop)
        case StreamSource():
            reader = StreamReader(installation, computation, config, stop)
        case _:
            raise SetupError(f"source {computation.name!r}: no process reads a {type(config).__name__}")
    LeasedSource(installation, computation, reader, stop).run()
