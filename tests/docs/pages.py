"""The pages a user reads, and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.worker import ROOT

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\S+\.py)\n")

#: The server's address in the examples, where a user writes their own.
EXAMPLE_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its page, first line, language and text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that a Python block shows (its first line is `# stocks.py`); None for lines to type."""
        found = _FILE.match(self.text) if self.language == "python" else None
        return found and found[1]


def page_paths() -> list[Path]:
    """README.md first, then the guides. Folders that Git ignores (.venv, build) have none of our pages."""
    guides = [path for folder in ("config", "tasks", "tests") for path in (ROOT / folder).rglob("*.md")]
    return [ROOT / "README.md", *sorted(guides)]


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = path.read_text()
    for found in _FENCE.finditer(text):
        yield Block(page_name(path), text.count("\n", 0, found.start()) + 2, found[1], found[2])


def all_blocks() -> list[Block]:
    return [block for path in page_paths() for block in blocks(path)]
