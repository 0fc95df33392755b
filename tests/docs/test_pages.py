"""The pages: short, with working links, and they name only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import blocks, page_name, page_paths
from tests.support.environment import setting_names
from tests.support.worker import ROOT

README_LINES = 180
GUIDE_LINES = 250

#: The languages of blocks; those that run are in test_snippets.py.
LANGUAGES = {"python", "sh", "js", "text", "json", "acl", "yaml", "procfile", "ini", "mermaid", "promql"}

PAGES = [pytest.param(path, id=page_name(path)) for path in page_paths()]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= (README_LINES if path == ROOT / "README.md" else GUIDE_LINES)


@pytest.mark.parametrize("path", PAGES)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        place, _, anchor = target.partition("#")
        found = (path.parent / place).resolve() if place else path
        assert found.exists(), target
        if anchor:
            assert anchor in _anchors(found.read_text()), target


@pytest.mark.parametrize("path", PAGES)
def test_every_block_has_a_language(path: Path) -> None:
    assert {block.language for block in blocks(path)} <= LANGUAGES


@pytest.mark.parametrize("path", PAGES)
def test_every_file_that_a_page_names_exists(path: Path) -> None:
    for name in re.findall(r"`((?:tests|tasks|config)/[\w/.-]+)(?:::\w+)?`", path.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", PAGES)
def test_every_test_that_a_page_names_exists(path: Path) -> None:
    for file, test in re.findall(r"`(tests/[\w/]*test_\w+\.py)(?:::(\w+))?`", path.read_text()):
        text = (ROOT / file).read_text()
        assert f"def {test or 'test_'}" in text, f"{file}::{test}"


@pytest.mark.parametrize("path", PAGES)
def test_every_setting_that_a_page_names_exists(path: Path) -> None:
    named = set(re.findall(r"\bPARTITIONS(?:_[A-Z]+)+\b", path.read_text()))
    assert named <= setting_names()


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub creates from headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
