"""`wait_until` returns the value it waited for, and its error contains the last value."""

import pytest

from tests.support.wait import wait_until


def test_returns_the_value() -> None:
    values = iter([0, "", "there"])
    assert wait_until(lambda: next(values), every=0.001) == "there"


def test_the_error_contains_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"no message after 0\.01 s; the last value was \[\]"):
        wait_until(list, timeout=0.01, every=0.001, message="no message")


def test_the_predicate_is_called_once_with_a_timeout_of_zero() -> None:
    assert wait_until(lambda: 1, timeout=0.0) == 1
