"""The builder of Wallaroo 0.1 to 0.5: its pipelines run in the pure step, without a server."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import celery_partitions.wallaroo as wallaroo
from celery_partitions.producer.pipelines import Application
from celery_partitions.wallaroo.arguments import COMMAND_LINE
from celery_partitions.wallaroo.computations import WallarooParameterError

Load = Callable[[str], ModuleType]


class State:
    def __init__(self) -> None:
        self.seen: list[Any] = []


class Decoder:
    def header_length(self) -> int:
        return 4

    def payload_length(self, header: bytes) -> int:
        return 5

    def decode(self, payload: bytes) -> str:
        return payload.decode()


class Encoder:
    def encode(self, data: str) -> bytes:
        return data.encode()


@wallaroo.state_computation(name="remember")
def remember(data: str, state: State) -> tuple[str, bool]:
    state.seen.append(data)
    return data, True


@wallaroo.state_computation_multi(name="recall")
def recall(data: str, state: State) -> tuple[list[str], bool]:
    return [*state.seen, data], False


@wallaroo.partition
def first_letter(data: str) -> str:
    return data[0]


def source(port: int = 1) -> wallaroo.TCPSourceConfig:
    return wallaroo.TCPSourceConfig("h", str(port), Decoder())


def call(application: Application, stage: str, message: Any, state: Any) -> Any:
    return application.stages[stage].function(message, state)


def test_a_state_is_kept_under_its_name_and_save_is_removed_from_outputs(load: Load) -> None:
    load("reverse")
    builder = wallaroo.ApplicationBuilder("one").new_pipeline("line", source())
    application = builder.to_stateful(remember, State, "memory").to_sink(wallaroo.TCPSinkConfig("h", 2, Encoder())).build()
    assert list(application.stages) == ["memory"]
    state = application.stages["memory"].state
    assert state is not None
    made = state.new()
    assert call(application, "memory", "x", made) == "x" and made.seen == ["x"]


def test_a_state_that_two_pipelines_share_is_one_stage_that_dispatches(load: Load) -> None:
    load("reverse")
    builder = wallaroo.ApplicationBuilder("two")
    builder.new_pipeline("in", source()).to_state_partition(remember, State, "memory", first_letter, ["a", "b"]).done()
    builder.new_pipeline("out", source(3)).to_state_partition(recall, State, "memory", first_letter)
    builder.to_sink(wallaroo.TCPSinkConfig("h", 2, Encoder()))
    application = builder.build()
    made = State()
    assert call(application, "memory", [0, "a"], made) == [[0, "a"]]
    assert call(application, "memory", [1, "b"], made) == [[1, "a"], [1, "b"]]
    sources = application.source_configs
    assert sources["out"].decoder(b"abc") == [1, "abc"]  # type: ignore[attr-defined]
    assert application.sources["out"].key_of([1, "abc"]) == application.sources["in"].key_of([0, "a"]) == "a"


def test_a_state_that_is_used_twice_in_a_row_is_refused() -> None:
    builder = wallaroo.ApplicationBuilder("row").new_pipeline("line", source())
    builder.to_stateful(remember, State, "memory").to_stateful(recall, State, "memory").done()
    with pytest.raises(WallarooParameterError, match="one comes after the other"):
        builder.build()


def test_codecs_without_a_config_take_addresses_from_the_command_line(load: Load) -> None:
    load("reverse")
    COMMAND_LINE[:] = ["--in", "h:1,h:3", "--out", "h:2"]
    try:
        builder = wallaroo.ApplicationBuilder("oldest").new_pipeline("first", Decoder()).to_sink(Encoder())
        application = builder.new_pipeline("the second", Decoder).to_sinks([Encoder]).build()
        with pytest.raises(WallarooParameterError, match="has no address"):
            builder.new_pipeline("third", Decoder())
    finally:
        COMMAND_LINE.clear()
    assert {name: config.port for name, config in application.source_configs.items()} == {"first": 1, "the second": 3}  # type: ignore[attr-defined]
    assert list(application.sinks) == ["h:2", "h:2 2"]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda new: new.build(), "has no pipeline"),
        (lambda new: new.to(remember), "call new_pipeline"),
        (lambda new: new.new_pipeline("x", source()).to(remember), "has a state"),
        (lambda new: new.new_pipeline("x", source()).to(object()), "is not a computation"),
        (lambda new: new.new_pipeline("x", source()).done().to(first_letter), "ended in a sink|is not a computation"),
        (lambda new: new.new_pipeline("x", source()).to_stateful(remember, State, ""), "the state's name"),
        (lambda new: new.new_pipeline("x", source()).to_state_partition(remember, State, "s", 3), "not a partition function"),
    ],
)
def test_invalid_pipelines_raise(build: Callable[[Any], object], says: str) -> None:
    with pytest.raises(WallarooParameterError, match=says):
        build(wallaroo.ApplicationBuilder("wrong"))


def test_the_examples_can_be_built(load: Load) -> None:
    both = ["--in", "h:1,h:3", "--out", "h:2"]
    assert list(load("older_classes").application_setup(both).stages) == ["lower", "letter state", "twice"]
    market = load("older_market").application_setup(both)
    assert list(market.stages) == ["symbol-data", "from Check Order"]
