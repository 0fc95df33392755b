"""The generated parts of the guides are up to date."""

from __future__ import annotations

from tests.docs.generate import PARTS, stale
from tests.docs.pages import page_name, page_paths


def test_no_generated_part_is_stale() -> None:
    assert [page_name(path) for path in stale()] == [], "run: make docs"


def test_each_part_is_in_one_guide() -> None:
    text = "\n".join(path.read_text() for path in page_paths())
    assert {name: text.count(f"<!-- generated: {name} -->") for name in PARTS} == dict.fromkeys(PARTS, 1)
