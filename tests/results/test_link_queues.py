"""The shape of links in a plain task's message is checked before Celery's tracer sees them."""

from __future__ import annotations

import json

import pytest

from celery_partitions.model.errors import MessageError
from celery_partitions.results.link_queues import check_links


@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord"])
@pytest.mark.parametrize("links", ["x" * 5_000, 7], ids=["text", "number"])
def test_links_that_are_no_list_are_refused(name: str, links: object) -> None:
    """Celery would send one message for each character of a text."""
    with pytest.raises(MessageError, match=name):
        check_links("plain", json.dumps([[], {}, {name: links}]).encode(), lambda queue: True)
