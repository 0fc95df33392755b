"""Dead letters of up to a megabyte each: Flower shows them and acts on them with less memory than all of them need."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from celery_partitions.admin.dead_letter_query import DeadLetterQuery
from celery_partitions.dashboard import dead_letters as dead_letters_module
from celery_partitions.dashboard.dead_letters import find_dead_letters
from tests.dashboard.group import Filled
from tests.dashboard.served import Served
from tests.dashboard.serving import filled, make_app, served, shop

__all__ = ["filled", "make_app", "served", "shop"]

DEAD_LETTERS = 80
#: 75 MB in all, in base64.
RAW = b"x" * 700_000
#: Some pages of a few megabytes, and the text of one dead letter for the search.
MAX_BYTES = 40_000_000


@pytest.fixture
def large(filled: Filled) -> Filled:
    for number in range(DEAD_LETTERS):
        filled.add_dead_letter("1", number, raw=RAW)
    return filled


@pytest.fixture
def peak_of() -> Iterator[Callable[[Callable[[], object]], int]]:
    """The peak memory of a call, in bytes."""

    def measure(act: Callable[[], object]) -> int:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        act()
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    yield measure
    tracemalloc.stop()


def test_they_are_not_in_memory_at_the_same_time(large: Filled, peak_of: Callable[[Callable[[], object]], int]) -> None:
    store = large.group.dead_letters
    assert peak_of(lambda: find_dead_letters(large.installation, DeadLetterQuery())) < MAX_BYTES
    assert peak_of(lambda: find_dead_letters(large.installation, DeadLetterQuery(text="nowhere"))) < MAX_BYTES
    assert peak_of(lambda: store.retry(DeadLetterQuery(reason="bad-key").places(store), by="me")) < MAX_BYTES
    assert (store.count(), large.client.llen("partition.1")) == (0, DEAD_LETTERS)


def test_beyond_a_number_of_bytes_the_rest_is_only_counted(
    served: Served, large: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters_module, "MAX_SCANNED_BYTES", 10_000_000)
    found = served.ask("/api/partitions/dead-letters").json
    assert (found["total"], len(found["groups"][0]["dead_letters"])) == (DEAD_LETTERS, 10)
    assert found["scanned"] == found["found"] == found["groups"][0]["count"] == 11
    assert "80 dead letters; only 11 were searched" in served.ask("/partitions/dead-letters").text
    assert served.post("/api/partitions/dead-letters/discard", {"all": True}).json["discarded"] == DEAD_LETTERS


def test_the_newest_of_a_group_are_shown_with_their_messages(served: Served, filled: Filled) -> None:
    for number in range(30):
        filled.add_dead_letter("1", number, raw=b"message %d" % number)
    group = served.ask("/api/partitions/dead-letters").json["groups"][0]
    assert [dead_letter["message"] for dead_letter in group["dead_letters"]] == [f"message {number}" for number in range(29, 19, -1)]
    assert (group["count"], group["error"], group["reason"]) == (30, "error 29", "bad-key"), "error and reason of the newest one"
