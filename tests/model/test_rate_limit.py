"""Rate limits as they are declared: Celery's spelling, and errors that say what to change."""

from __future__ import annotations

from typing import Any

import pytest
from celery.utils.time import rate

from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.rate_limit import RateLimit, changed_limit, default_burst, per_second


def work(message: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("text", ["10", "10/s", "100/m", "5/h", "0.5/m", "1000"])
def test_a_rate_is_what_celery_makes_of_it(text: str) -> None:
    assert per_second(text) == pytest.approx(rate(text))


@pytest.mark.parametrize("text", ["", "0", "0/s", "-1", "10/d", "ten", "1e3", "10/s/m", "nan", "٣/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        per_second(text)


def test_the_default_burst_is_what_the_rate_allows_in_50_ms() -> None:
    assert [default_burst(each) for each in (0.001, 1, 20, 100, 1000)] == [1, 1, 1, 5, 50]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rate_limit": "fast"}, "is not a rate"),
        ({"rate_limit": True}, "must be a text"),
        ({"rate_limit": "1/s", "burst": 0}, "burst must be an integer"),
        ({"rate_limit": "1/s", "burst": True}, "burst must be an integer"),
        ({"burst": 3}, "burst= needs a rate_limit="),
        ({"rate_limit_key": str}, "rate_limit_key= needs a rate_limit="),
        ({"rate_limit": "1/s", "rate_limit_key": "host"}, "must be a function of one message"),
    ],
)
def test_a_declaration_that_cannot_work(options: dict[str, Any], error: str) -> None:
    with pytest.raises(DeclarationError, match=error):
        declare(work, name="work", state=None, key=str, **options)


def test_an_operators_change() -> None:
    declared = declare(work, name="work", state=None, key=str, rate_limit="100/m", burst=7).rate_limit
    assert declared is not None
    assert changed_limit(declared, None, None) is declared
    assert changed_limit(declared, "none", None) is None
    assert changed_limit(declared, None, 2) == RateLimit("100/m", 100 / 60, 2)
    assert changed_limit(declared, "200/s", None) == RateLimit("200/s", 200.0, 10)
