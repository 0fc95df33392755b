"""Reads a pipeline's annotations: the type of a source's messages, and whether stages match."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery_partitions.model.annotations import first_annotation
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.message_codec import MessageCodec
from celery_partitions.pipeline.graph import GraphNode, KeyBy, Source, Use

_Graph = Mapping[GraphNode, Sequence[GraphNode]]
_NONE = (inspect.Parameter.empty, Any, object)
#: (returned, accepted): number types that Python accepts in place of each other.
_TOWER = {(bool, int), (int, float), (bool, float)}


def codec_of_source(source: Source, after: _Graph, names: Mapping[Use, str]) -> MessageCodec:
    """The codec for a source's messages. Its type is the source's `type=`, otherwise the first annotation that JSON can be converted to: of
    its event_time, a key extractor or a stage.

    Raises `DeclarationError` if there are only other annotations, and producers send JSON to the source.
    """
    if source.type is not None:
        return MessageCodec(source.type, "message")
    found: list[tuple[Any, str, str]] = []
    if source.event_time is not None:
        found.append((*_parameter(source.event_time), "event_time="))
    waiting = list(after[source])
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, Use):
            found.append((node.computation.codec.annotation, node.computation.codec.parameter, repr(names[node])))
        elif isinstance(node, KeyBy):
            found.append((*_parameter(node.extract), "key_by"))
            waiting += after[node]
        else:
            waiting += after[node]
    refused: DeclarationError | None = None
    for annotation, parameter, where in found:
        if annotation not in _NONE:
            try:
                return MessageCodec(annotation, parameter)
            except DeclarationError as error:
                refused = refused or DeclarationError(f"source {source.name!r}, {where}: {error}. Or give the source a type=")
    if refused is not None and source.config is None:
        raise refused
    return MessageCodec(inspect.Parameter.empty, found[0][1] if found else "message")


def check_types(application: str, after: _Graph, names: Mapping[Use, str]) -> None:
    """Raise `DeclarationError` if, by their annotations, a stage returns what the next one does not accept."""
    for node, follow in after.items():
        if isinstance(node, Use):
            given = _returned(node)
            for taker, is_hop in _takers(follow, after):
                wanted = _wanted(taker)
                # A dict sent to another key is converted to the annotation there. Under the same key it stays a dict.
                if given not in _NONE and wanted not in _NONE and not (_fits(given, wanted) or (given is dict and is_hop)):
                    what = f"stage {names[taker]!r}" if isinstance(taker, Use) else "the key_by after it"
                    raise DeclarationError(
                        f"application {application!r}: stage {names[node]!r} returns {_name(given)}, but {what} takes {_name(wanted)}"
                    )


def _takers(follow: Sequence[GraphNode], after: _Graph, is_hop: bool = False) -> list[tuple[Use | KeyBy, bool]]:
    """The nodes that receive an output, and whether each is under another key."""
    found: list[tuple[Use | KeyBy, bool]] = []
    for node in follow:
        if isinstance(node, Use | KeyBy):
            found.append((node, is_hop))
        if not isinstance(node, Use):
            found += _takers(after.get(node, ()), after, is_hop=True)
    return found


def _wanted(taker: Use | KeyBy) -> Any:
    return taker.computation.codec.annotation if isinstance(taker, Use) else _parameter(taker.extract)[0]


def _returned(use: Use) -> Any:
    """The annotation of one output; `inspect.Parameter.empty` if there is none."""
    if use.computation.windows is not None:
        return inspect.Parameter.empty
    try:
        given = first_annotation(use.computation.function, "return")
    except DeclarationError:
        return inspect.Parameter.empty
    given = _without_none(given)
    if use.computation.multi:
        arguments = typing.get_args(given)
        given = _without_none(arguments[0]) if typing.get_origin(given) is list and arguments else inspect.Parameter.empty
    return given


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [one for one in typing.get_args(annotation) if one is not type(None)]
        return rest[0] if len(rest) == 1 else inspect.Parameter.empty
    return inspect.Parameter.empty if annotation is type(None) else annotation


def _fits(given: Any, wanted: Any) -> bool:
    """Whether the types match. True unless both are plain classes, because nothing is known about other annotations."""
    wanted = _without_none(wanted)
    if not (isinstance(given, type) and isinstance(wanted, type)) or typing.is_typeddict(given) or typing.is_typeddict(wanted):
        return True
    return issubclass(given, wanted) or (given, wanted) in _TOWER


def _parameter(function: Callable[..., Any]) -> tuple[Any, str]:
    """The annotation and the name of a function's first parameter."""
    try:
        name = next(iter(inspect.signature(function).parameters), "message")
        return first_annotation(function, name), name
    except (ValueError, TypeError):
        return inspect.Parameter.empty, "message"


def _name(annotation: Any) -> str:
    return getattr(annotation, "__qualname__", None) or str(annotation)
