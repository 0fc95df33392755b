"""A message as Celery's tracer expects it."""

from __future__ import annotations

import pytest

from celery_partitions.results.replies import request_of
from tests.model.build import raw_message


@pytest.mark.parametrize("text", [b"\xff", b"\xff\xfe"])
def test_text_that_is_not_unicode_in_a_field_that_nobody_reads_is_replaced(text: bytes) -> None:
    raw = raw_message("add", {"key": "k"}, "m1", argsrepr="HERE").replace(b"HERE", text)
    request = request_of(raw)
    assert (request["id"], request["args"], request["task"]) == ("m1", [{"key": "k"}], "add")
    request["argsrepr"].encode()
