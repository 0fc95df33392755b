"""A sink with a process, as a partition group of its own: its one computation calls the sink's function or writes to its peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from celery_partitions.model.arity import misfit
from celery_partitions.model.computation import Computation, StageNode
from celery_partitions.model.errors import DeclarationError, SetupError
from celery_partitions.model.message_codec import MessageCodec
from celery_partitions.model.values import ANY_VALUE
from celery_partitions.pipeline.sinks import CallableSink, FileSink, SinkConfig, StdoutSink, TCPSinkConfig
from celery_partitions.producer.pipelines import Application, applications
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.peer import Peer
from celery_partitions.sinks.peers import FilePeer, StdoutPeer, TCPPeer


def sink_installation(
    installation: Installation, name: str, standard_output: Callable[[], int] = lambda: 1
) -> Installation:
    """The installation of the sink's own group. `standard_output`: returns the file descriptor for a sink that writes there.

    Raises `SetupError` for a sink without a process, and lists the sinks that have one.
    """
    application, config = find_sink(name)
    peer = _peer(config, standard_output)
    computation = _writing(name) if peer is not None else _calling(application, config)
    settings = replace(
        installation.settings,
        group=installation.group.names.sink_group(name),
        partitions=1,
        partitions_url="",  # its one queue is on the control server
        # Writing bytes cannot kill a worker: if one dies, something else killed it, and no message is at fault.
        max_worker_crashes=installation.settings.max_worker_crashes if peer is None else 0,
    )
    return Installation(installation.app, settings, {name: computation}, by_default=True, peer=peer)


def find_sink(name: str) -> tuple[Application, SinkConfig]:
    """The sink of this name, which must have a process. Raises `SetupError`, which lists the sinks that have one."""
    known: list[str] = []
    for application in applications.values():
        config = application.sinks.get(name)
        if config is not None and config.has_process:
            return application, config
        known += [repr(one.sink_name) for one in application.sinks.values() if one.has_process]
    there = f"sinks with a process: {', '.join(sorted(set(known))) or 'none'}"
    if any(name in application.sinks for application in applications.values()):
        raise SetupError(f"sink {name!r} needs no process: each commit writes its outputs directly; {there}")
    raise SetupError(f"no sink is named {name!r}; {there}")


def _peer(config: SinkConfig, standard_output: Callable[[], int]) -> Peer | None:
    """What a sink writes to. None: it calls a function."""
    match config:
        case TCPSinkConfig(host=host, port=port):
            return TCPPeer(config.sink_name, host, port)
        case FileSink(path=path):
            return FilePeer(config.sink_name, path)
        case StdoutSink():
            return StdoutPeer(config.sink_name, standard_output())
    return None


def _calling(application: Application, config: SinkConfig) -> Computation:
    """The computation of a sink that calls a function."""
    name = config.sink_name
    if not isinstance(config, CallableSink):
        raise SetupError(f"sink {name!r}: no process delivers to a {type(config).__name__}")
    function = config.function
    modules = {module for stage in (*application.stages.values(), *application.sources.values()) for module in stage.modules}
    modules |= {str(getattr(function, "__module__", "builtins"))} - {"builtins"}
    return _computation(name, function, ANY_VALUE, takes_context=_takes_context(name, function), modules=tuple(sorted(modules)))


def _writing(name: str) -> Computation:
    """The computation of a sink that writes. It does nothing: the sink's peer writes the outputs of a batch together."""
    return _computation(name, lambda output: None, MessageCodec(bytes, "output"))


def _computation(name: str, function: Callable[..., Any], codec: MessageCodec, **more: Any) -> Computation:
    made = Computation(
        name=name,
        function=function,
        extract=_no_key,
        codec=codec,
        state=None,
        plain_call=False,
        role="stage",
        takes_values=True,
        scope=f"sink {name}",
        **{"takes_context": False, **more},
    )
    made.roots.append(StageNode(made))
    return made


def _no_key(message: Any) -> Any:
    raise SetupError("this message has no key in its header: only outputs of the pipeline may be sent to a sink's queue")


def _takes_context(name: str, function: Callable[..., Any]) -> bool:
    """Whether a function takes a context as second argument. Raises `DeclarationError` if it accepts neither form."""
    if not misfit(function, 1):
        return False
    if not misfit(function, 2):
        return True
    raise DeclarationError(f"sink {name!r}: a sink's function must take (output) or (output, context)")
