"""What an operator looks at in `partitions top`, and what each key does. `Keyboard` reads the keys of a terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from celery_partitions.cli.columns import LAYOUTS, SORTS, By, Layout, Sort

#: What the last line of the screen says.
HELP = "s sort  c computations  ↑↓ choose  Enter open  q quit"
HELP_OPEN = "↑↓ previous, next  Esc back  q quit"

_KEYS = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"k": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"j": "down", b"\r": "open", b"\n": "open",
    b"\x1b": "back", b"\x7f": "back", b"\x08": "back",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class View:
    by: By = "partition"
    #: None: by name, or by backlog if not all rows fit the screen.
    sort: Sort | None = None
    #: The name of the chosen row. None: no row is chosen.
    chosen: str | None = None
    #: The chosen row fills the screen.
    is_open: bool = False

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.by]

    def press(self, key: str, names: Sequence[str]) -> View | None:
        """The view after a key. `names`: of the rows, as they are shown. None: the operator wants to end. Other keys change nothing."""
        match key:
            case "q":
                return None
            case "s":
                place = SORTS.index(self.sort) + 1 if self.sort is not None else 0
                return replace(self, sort=SORTS[place % len(SORTS)])
            case "c":
                return View("computation" if self.by == "partition" else "partition", self.sort)
            case "up" | "down" if names:
                place = names.index(self.chosen) if self.chosen in names else -1 if key == "down" else len(names)
                step = 1 if key == "down" else -1
                return replace(self, chosen=names[max(0, min(len(names) - 1, place + step))])
            case "open" if names:
                return replace(self, chosen=self.chosen if self.chosen in names else names[0], is_open=True)
            case "back":
                return replace(self, is_open=False) if self.is_open else replace(self, chosen=None)
        return self


class Keyboard:
    """Reads single keys from standard input, if it is a terminal. As a context manager it restores the terminal's mode."""

    def __init__(self) -> None:
        self._mode: list[Any] | None = None
        #: Keys that were pressed and not returned yet.
        self._read = b""

    def __enter__(self) -> Self:
        if sys.stdin.isatty():
            self._mode = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._mode is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._mode)

    @property
    def is_there(self) -> bool:
        return self._mode is not None

    def key(self, seconds: float) -> str | None:
        """The next key, or None after `seconds`."""
        if self._mode is None:
            time.sleep(seconds)
            return None
        if not self._read:
            if not select.select([sys.stdin], [], [], seconds)[0]:
                return None
            self._read = os.read(sys.stdin.fileno(), 1024)
            if not self._read:  # the terminal has gone
                return "q"
        length = 3 if self._read[:3] in _KEYS else 1
        key, self._read = self._read[:length], self._read[length:]
        return _KEYS.get(key) or key.decode("ascii", "replace")
