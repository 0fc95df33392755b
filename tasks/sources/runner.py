"""Runs a source's process, by the source's name. One process may serve several TCP sources."""

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
    """The declared source of this name. Raises `SetupError`, which lists the sources that a process can read."""
    configs: dict[str, SourceConfig] = {}
    for application in applications.values():
        configs |= application.source_configs
        if name in application.source_configs:
            return application.sources[name], application.source_configs[name]
    known = ", ".join(repr(one) for one in sorted(configs)) or "none"
    if any(name in application.sources for application in applications.values()):
        raise SetupError(
            f"source {name!r} has no config, so no process reads it. Send to it with {name}.delay(…), send_many(…) or "
            f"`partitions send`. Sources that a process can read: {known}"
        )
    raise SetupError(f"no source is named {name!r}; sources that a process can read: {known}")


def run_sources(installation: Installation, names: Sequence[str], say_line: Callable[[str], None]) -> None:
    """Read one source, or several TCP sources, until the source ends or a signal stops the process.

    Call it in the main thread. Raises `SetupError`.
    """
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
                raise SetupError(f"source {computation.name!r} is not a TCP source. Only TCP sources can share a process; run it alone")
            feeds.append(Feed(installation, computation, config, stop))
        TCPSources(feeds, stop).run(say_line)
    except EndAtOnce as end:
        raise SystemExit(end.code) from None
    finally:
        stop.close()


def run_leased(installation: Installation, computation: Computation, config: SourceConfig, stop: Stop) -> None:
    """Read a source that has a lease, so that one process reads at a time."""
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
