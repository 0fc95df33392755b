"""The API as applications, and their own tests, use it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import celery_partitions.wallaroo as wallaroo
from celery_partitions.pipeline.sinks import RedisList
from celery_partitions.wallaroo.computations import WallarooParameterError

Load = Callable[[str], ModuleType]

IN, OUT = ["--in", "127.0.0.1:7010"], ["--out", "127.0.0.1:7002"]


class Total:
    value = 0


@wallaroo.computation(name="double")
def double(data: int, times: int = 2) -> int:
    return data * times


@wallaroo.computation_multi("letters")
def letters(data: str) -> list[str]:
    return list(data)


@wallaroo.state_computation(name="add", state=Total)
def add(data: int, state: Total) -> int:
    state.value += data
    return state.value


@wallaroo.state_computation_multi("add twice", Total)
def add_twice(data: int, state: Total) -> list[int]:
    return [add.compute(data, state), add.compute(data, state)]


@wallaroo.key_extractor
def first_letter(data: str) -> str:
    return data[0]


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(data: bytes) -> str:
    return data.decode()


@wallaroo.encoder
def encode(data: str) -> str:
    return data + "\n"


class Tag:
    def __init__(self, tag: str) -> None:
        self.tag = tag

    def __call__(self, data: str) -> str:
        return self.tag + data


tag = wallaroo.computation("tag")(Tag(">"))


def test_decorated_functions_have_the_methods_that_applications_tests_use() -> None:
    assert double.name() == "double" and double.compute(4) == 8 and double(4) == 8
    assert letters.compute_multi("ab") == ["a", "b"] and letters("ab") == ["a", "b"]
    assert add.compute(2, total := add.initial_state()) == 2 and total.value == 2
    assert add_twice.compute_multi(3, total) == [5, 8]
    assert first_letter.extract_key("abc") == first_letter.partition("abc") == first_letter("abc") == "a"
    assert decode.decode(b"x") == "x" and decode.header_length() == 4 and decode.payload_length(b"\0\0\0\x05") == 5
    assert encode.encode("x") == "x\n"
    assert tag.compute("x") == ">x"
    assert isinstance(double, wallaroo.Computation) and not isinstance(double, wallaroo.StateComputation)
    assert isinstance(add, wallaroo.StateComputation) and isinstance(letters, wallaroo.ComputationMulti)
    assert isinstance(first_letter, wallaroo.KeyExtractor)
    assert isinstance(decode, wallaroo.Decoder) and isinstance(encode, wallaroo.Encoder)


@pytest.mark.parametrize("one", [double, letters, add, add_twice, first_letter, decode, encode])
def test_decorated_functions_can_be_pickled(one: object) -> None:
    assert pickle.loads(pickle.dumps(one)) is one
    assert wallaroo.deserialize(wallaroo.serialize(one)) is one


def test_a_decorated_function_without_a_module_name_is_pickled_by_its_parts() -> None:
    again = pickle.loads(pickle.dumps(tag))
    assert again.name() == "tag" and again.compute("x") == ">x"


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: wallaroo.computation(lambda data: data), "needs a name"),  # type: ignore[arg-type]
        (lambda: wallaroo.state_computation(name=""), "needs a name"),
        (lambda: wallaroo.computation(name="x")(lambda: 1), r"must take \(data\)"),
        (lambda: wallaroo.state_computation(name="x", state=Total)(lambda data: 1), r"must take \(data, state\)"),
        (lambda: wallaroo.key_extractor(lambda: 1), r"must take \(data\)"),
        (lambda: wallaroo.state_computation(name="x", state=int)(lambda data, state: 1), "immutable"),
        (lambda: wallaroo.state_computation(name="x")(lambda data, state: 1).computation, "has no state="),
        (lambda: wallaroo.TCPSinkConfig("h", "p", encode), "is not a port number"),
        (lambda: wallaroo.TCPSinkConfig("h", "1"), "expects"),
        (lambda: wallaroo.TCPSinkConfig("h", "1", 3), "is not an encoder"),
        (lambda: wallaroo.TCPSourceConfig("h", "1", object()), "is not a decoder"),
    ],
)
def test_invalid_declarations_raise_immediately(declare: Callable[[], object], says: str) -> None:
    with pytest.raises(WallarooParameterError, match=says):
        declare()


def test_the_name_wallaroo_is_this_module() -> None:
    namespace: dict[str, Any] = {}
    exec("import wallaroo\nfrom wallaroo import source", namespace)
    assert namespace["wallaroo"] is wallaroo and namespace["source"] is wallaroo.source


@pytest.mark.parametrize(
    ("given", "addresses"),
    [
        (["--in", "a:1"], [("a", "1")]),
        (["x", "-i", "a:1,b:2", "-o", "c:3"], [("a", "1"), ("b", "2")]),
        (["--in=votes@a:1,quotes@b:2", "--input", "3"], [("votes", "a", "1"), ("quotes", "b", "2")]),
        (["--in", "::1:7010"], [("::1", "7010")]),
    ],
)
def test_addresses(given: list[str], addresses: list[Any]) -> None:
    assert wallaroo.tcp_parse_input_addrs(given) == addresses


@pytest.mark.parametrize("given", [[], ["--in", "nowhere"], ["--in", "a:b"], ["--in"]])
def test_invalid_addresses(given: list[str]) -> None:
    with pytest.raises(WallarooParameterError, match="--in"):
        wallaroo.tcp_parse_input_addrs(given)


def test_sources_accept_the_arguments_of_all_versions() -> None:
    older = wallaroo.TCPSourceConfig("h", "1", decode, parallelism=4)
    delayed = wallaroo.TCPSourceConfig("n", "h", 1, decode, True, 10)
    assert (older.name, older.host, older.port) == (None, "h", 1)
    assert (delayed.name, delayed.host, delayed.port, delayed.parallelism) == ("n", "h", 1, 10)
    sinks = wallaroo.TCPSinkConfig("h", "1", encode), wallaroo.TCPSinkConfig("n", "h", 1, encode)
    assert [(sink.host, sink.port, sink.sink_name) for sink in sinks] == [("h", 1, "h:1"), ("h", 1, "n")]


def test_a_name_may_be_used_for_a_source_a_computation_and_sinks(load: Load) -> None:
    load("reverse").application_setup([*IN, *OUT])
    other = wallaroo.encoder(lambda data: data)
    sinks = [wallaroo.TCPSinkConfig("h", 1, one) for one in (encode, other, encode, other)]
    pipeline = wallaroo.source("double", wallaroo.TCPSourceConfig("h", 2, decode)).to(double).to(double)
    built = wallaroo.build_application("names", pipeline.to_sinks(sinks[:2]).merge(pipeline.to_sinks(sinks[2:])))
    assert list(built.sources) == ["double source"]
    assert list(built.stages) == ["double", "double 2"]
    assert list(built.sinks) == ["h:1", "h:1 2"]


def test_an_application_can_go_to_our_own_sinks(load: Load) -> None:
    load("reverse")
    pipeline = wallaroo.source("own", wallaroo.TCPSourceConfig("h", 2, decode)).to(tag).to_sink(RedisList("out"))
    assert list(wallaroo.build_application("own", pipeline).sinks) == ["out"]
