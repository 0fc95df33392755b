"""Names of applications, sources and sinks are short and printable, like those of computations."""

from __future__ import annotations

from typing import Any

import pytest

from celery_partitions import build_application, source
from celery_partitions.model.errors import DeclarationError
from celery_partitions.pipeline.sinks import FileSink

BAD = ["a\nb", "\x1b[2J", "x" * 201]


def built(*, application: str = "shop", begins: str = "numbers", ends: str = "log") -> Any:
    return build_application(application, source(begins).key_by(str).to_sink(FileSink("out", name=ends)))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("where", ["application", "begins", "ends"])
def test_an_invalid_name_is_refused_where_it_is_given(where: str, name: str) -> None:
    with pytest.raises(DeclarationError, match=r"control characters|201 characters") as refused:
        built(**{where: name})
    assert str(refused.value).isprintable()
