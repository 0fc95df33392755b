"""The builder of Wallaroo 0.1 to 0.5: composes lines of steps, with states shared by name, into one pipeline.

    0.1        computations are classes: `to(Class)`, `to_stateful(Instance(), Builder(), "state")`, where `Builder.build()`
               returns a new state; codecs and partition functions are objects
    0.2–0.5    decorated functions, and a state class: `to_state_partition(check, State, "state", by_symbol[, keys])`

A stateful step returns `(output, save)`, or only the output. `save` is ignored: every change of a state is saved.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from celery_partitions.model.errors import OneKeyWarning
from celery_partitions.pipeline.graph import Pipeline
from celery_partitions.producer.pipelines import Application
from celery_partitions.wallaroo.arguments import COMMAND_LINE, tcp_parse_input_addrs, tcp_parse_output_addrs
from celery_partitions.wallaroo.composition import Composition, Line, Step
from celery_partitions.wallaroo.computations import StateComputation, WallarooParameterError
from celery_partitions.wallaroo.ends import TCPSinkConfig, TCPSourceConfig
from celery_partitions.wallaroo.pipelines import build_application, source


class ApplicationBuilder:
    """Every method except `build` returns the builder, so calls can be chained. Raises `WallarooParameterError`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lines: list[Line] = []
        self._is_open = False

    def new_pipeline(self, name: str, source_config: Any, *_: Any, **__: Any) -> ApplicationBuilder:
        """Start the next line. `source_config`: a config, or a decoder. With a decoder, the address is the line's entry in `--in`."""
        number = len(self._lines)
        if isinstance(source_config, type) or hasattr(source_config, "decode"):
            addresses = tcp_parse_input_addrs(COMMAND_LINE)
            if number >= len(addresses):
                raise WallarooParameterError(f"pipeline {name!r} has no address: it is number {number + 1}, but --in has {len(addresses)}")
            source_config = TCPSourceConfig(*addresses[number], source_config)
        self._lines.append(Line(name, source(name, source_config), source_config))
        self._is_open = True
        return self

    def to(self, computation: Any) -> ApplicationBuilder:
        """Pass each message to a computation: a decorated function, or an object (or its class) with `name()` and `compute()` or `compute_multi()`."""
        line, made = self._line("to"), _made(computation)
        if isinstance(made, StateComputation):
            raise WallarooParameterError(f"to({made.name()!r}): this computation has a state. Use to_stateful or to_state_partition")
        line.steps.append(Step(_name_of(made), _call_of(made), multi=_is_multi(made), like=made))
        return self

    to_parallel = to

    def to_stateful(self, computation: Any, state_class: Any, state_name: str) -> ApplicationBuilder:
        """Pass each message to a computation, with the one state of that name."""
        return self._stateful("to_stateful", computation, state_class, state_name, None)

    def to_state_partition(
        self, computation: Any, state_class: Any, state_name: str, partition_function: Any, partition_keys: Any = None, *_: Any
    ) -> ApplicationBuilder:
        """Pass each message to a computation, with its key's state among the states of that name.

        `partition_keys` (the expected keys) is ignored: any key gets a state.
        """
        return self._stateful("to_state_partition", computation, state_class, state_name, _partition(partition_function))

    to_state_partition_u64 = to_state_partition

    def to_sink(self, sink: Any) -> ApplicationBuilder:
        """Send outputs to a sink. `sink`: a config, or an encoder. With an encoder, the address is the line's entry in `--out`."""
        return self.to_sinks([sink])

    def to_sinks(self, sinks: Sequence[Any]) -> ApplicationBuilder:
        """Send outputs to each sink."""
        line = self._line("to_sinks")
        line.sinks = [self._sink(one) for one in sinks]
        self._is_open = False
        return self

    def done(self) -> ApplicationBuilder:
        """End the line. Outputs of its last step are discarded."""
        self._is_open = False
        return self

    def build(self) -> Application:
        """The application, for `application_setup` to return."""
        if not self._lines:
            raise WallarooParameterError(f"application {self.name!r} has no pipeline: call new_pipeline() first")
        whole: Pipeline | None = None
        for one in Composition(self._lines).pipelines():
            whole = one if whole is None else whole.merge(one)
        assert whole is not None
        with warnings.catch_warnings():
            # to_stateful asks for one state explicitly.
            warnings.simplefilter("ignore", OneKeyWarning)
            return build_application(self.name, whole)

    def _stateful(
        self, verb: str, computation: Any, state_class: Any, state_name: str, key: Callable[[Any], Any] | None
    ) -> ApplicationBuilder:
        made = _made(computation)
        make = getattr(state_class, "build", None) or state_class
        if isinstance(state_class, type) and make is not state_class:
            make = state_class().build
        if not callable(make) or not isinstance(state_name, str) or not state_name:
            raise WallarooParameterError(f"{verb}({_name_of(made)!r}, …) needs a state class, or an object with build(), and the state's name")
        call = _without_save(_call_of(made))
        self._line(verb).steps.append(
            Step(_name_of(made), call, multi=_is_multi(made), like=made, state_name=state_name, make=make, key=key)
        )
        return self

    def _line(self, verb: str) -> Line:
        if not self._lines:
            raise WallarooParameterError(f"{verb}(): call new_pipeline() first")
        if not self._is_open:
            raise WallarooParameterError(f"{verb}(): the pipeline {self._lines[-1].name!r} has ended in a sink; no step can follow")
        return self._lines[-1]

    def _sink(self, sink: Any) -> Any:
        if not isinstance(sink, type) and not hasattr(sink, "encode"):
            return sink
        addresses = tcp_parse_output_addrs(COMMAND_LINE)
        return TCPSinkConfig(*addresses[min(len(self._lines), len(addresses)) - 1], sink)


def _made(computation: Any) -> Any:
    """The computation. A class is instantiated."""
    made = computation() if isinstance(computation, type) else computation
    if not any(callable(getattr(made, verb, None)) for verb in ("compute", "compute_multi")):
        raise WallarooParameterError(
            f"{computation!r:.80} is not a computation: decorate a function with @wallaroo.computation(name=…), or pass a class with "
            "name() and compute()"
        )
    return made


def _name_of(made: Any) -> str:
    name = getattr(made, "name", None)
    return str(name() if callable(name) else name or type(made).__name__)


def _is_multi(made: Any) -> bool:
    return bool(getattr(made, "multi", False)) or not callable(getattr(made, "compute", None))


def _call_of(made: Any) -> Callable[..., Any]:
    call: Callable[..., Any] = made.compute_multi if _is_multi(made) else made.compute
    return call


def _partition(given: Any) -> Callable[[Any], Any]:
    made = given() if isinstance(given, type) else given
    key: Any = getattr(made, "partition", None) or getattr(made, "extract_key", None) or made
    if not callable(key):
        raise WallarooParameterError(f"{given!r:.80} is not a partition function: decorate a function with @wallaroo.partition")
    return lambda message: key(message)


def _without_save(call: Callable[..., Any]) -> Callable[..., Any]:
    def output_of(message: Any, state: Any) -> Any:
        returned = call(message, state)
        if type(returned) is tuple and len(returned) == 2 and isinstance(returned[1], bool | None):
            return returned[0]
        return returned

    return output_of
