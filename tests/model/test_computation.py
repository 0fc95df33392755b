"""Declarations: what is accepted, what is refused with a fix, and the key of a message."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from celery_partitions.model.computation import Computation, Context
from celery_partitions.model.declaration import declare, key_extractor
from celery_partitions.model.errors import DeclarationError, KeyExtractionError


def declared(function: Any = None, *, key: Any = str, state: Any = dict, name: Any = "count") -> Computation:
    return declare(function or (lambda message, state: None), name=name, state=state, key=key)


class Methods:
    def two(self, message: int, state: dict[str, int]) -> None: ...

    def __call__(self, message: int, state: dict[str, int]) -> None: ...


def typed(message: int, state: dict[str, int]) -> None: ...


@functools.wraps(typed)
def wrapped(*args: Any) -> None: ...


@pytest.mark.parametrize("function", [typed, wrapped, Methods().two, Methods()])
def test_the_message_type_is_found_on_every_kind_of_callable(function: Any) -> None:
    assert declared(function).codec.annotation is int


def test_a_third_parameter_is_the_context() -> None:
    def with_context(message: int, state: dict[str, int], context: Context) -> None: ...

    assert declared(with_context).takes_context and not declared(typed).takes_context
    assert declared(typed, state=None).takes_context


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a\nb", "line breaks or control characters"),
        ("a\x00", "line breaks or control characters"),
        ("\x1b[2J", "line breaks or control characters"),
        ("a\ud800", "line breaks or control characters"),
        ("x" * 201, "has 201 characters. Give it a name of at most 200"),
        ("x" * 10_000, "has 10,000 characters"),
    ],
)
def test_a_name_is_short_and_printable(name: str, says: str) -> None:
    with pytest.raises(DeclarationError, match=says) as refused:
        declared(name=name)
    assert len(str(refused.value)) < 400 and str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["update stock", "größe", "数", "x" * 200, "shop.tasks.update"])
def test_names_in_any_language_are_accepted(name: str) -> None:
    assert declared(name=name).name == name


async def is_async(message: int, state: dict[str, int]) -> None: ...


def generates(message: int, state: dict[str, int]) -> Iterator[int]:
    yield 1


async def generates_async(message: int, state: dict[str, int]) -> AsyncIterator[int]:
    yield 1


def unresolved(message: NoSuchClass, state: dict[str, int]) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda: None, "must take"),
        (lambda message: None, "must take"),
        (lambda a, b, c, d: None, "must take"),
        (lambda *args: None, "must take"),
        (lambda message, state, *, needed: None, "must take"),
        (generates, "is a generator"),
        (generates_async, "is a generator"),
        (unresolved, "can't be resolved"),
        (5, "expected a function"),
    ],
)
def test_a_function_that_cannot_be_a_computation_is_refused(function: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        declared(function)


@pytest.mark.parametrize("name", ["", "  ", None, 5])
def test_a_computation_needs_a_name(name: Any) -> None:
    with pytest.raises(DeclarationError, match="needs a name"):
        declared(name=name)


def test_a_key_extractor_takes_one_message() -> None:
    with pytest.raises(DeclarationError, match="key extractor must take"):
        key_extractor(lambda one, two: "x")
    with pytest.raises(DeclarationError, match="must be a key extractor"):
        declared(key="symbol")


@pytest.mark.parametrize("given", [None, 1.5, [], "x" * 5000, pytest.param(10**5000, id="huge"), b"\xff" * 4097])
def test_an_invalid_key_is_a_key_extraction_error(given: Any) -> None:
    with pytest.raises(KeyExtractionError) as caught:
        declared(key=lambda message: given).key_of("m")
    assert caught.value.reason == "bad-key"


class WithoutText(Exception):
    def __str__(self) -> str:
        raise AttributeError("no text")


@pytest.mark.parametrize(
    "error", [KeyError("symbol"), WithoutText(), RecursionError(), SystemExit(3), ValueError("\ud800")]
)
def test_any_exception_of_the_extractor_is_a_key_extraction_error_with_a_cause(error: BaseException) -> None:
    def extract(message: Any) -> str:
        raise error

    with pytest.raises(KeyExtractionError, match=type(error).__name__) as caught:
        declared(key=extract).key_of("m")
    assert caught.value.__cause__ is error
    str(caught.value).encode()


def test_an_interrupt_of_the_producer_passes_through_its_extractor() -> None:
    def extract(message: Any) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        declared(key=extract).key_of("m")
