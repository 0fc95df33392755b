"""One line of `doctor`'s report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    subject: str
    verdict: Verdict
    text: str
