"""Rounds, medians, and the rows of the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


class CandidateFailedError(Exception):
    """A candidate could not be measured; the message says why and quotes its last output."""


@dataclass(slots=True)
class Samples:
    """The figures of one candidate, one per round, and why a round has none."""

    values: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of the successful rounds; not-a-number if there are none."""
        return statistics.median(self.values) if self.values else math.nan


@dataclass(frozen=True, slots=True)
class Target:
    """The target for the score of a row."""

    bound: Literal["at least", "at most"]
    value: float
    unit: str = ""

    def reached(self, score: float) -> bool:
        """Whether the score reaches the target. A missing score (not-a-number) never does."""
        return score >= self.value if self.bound == "at least" else score <= self.value

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}{self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: our figure, the other one, and the score that is compared with the target."""

    measure: str
    unit: str
    ours: float
    #: The alternative and its figure; empty and not-a-number if there is none.
    against: str = ""
    theirs: float = math.nan
    #: The score, where it is neither the ratio of the two figures nor, without an alternative, our figure.
    own_score: float | None = None
    target: Target | None = None
    #: How the figures were measured, for the reader of the report.
    note: str = ""
    #: Every figure of every candidate in each round, in `unit`.
    samples: Mapping[str, Samples] = field(default_factory=dict)

    @property
    def score(self) -> float:
        if self.own_score is not None:
            return self.own_score
        return ratio(self.ours, self.theirs) if self.against else self.ours

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None for a row that is only reported."""
        return None if self.target is None else self.target.reached(self.score)


def alternate(rounds: int, candidates: Mapping[str, Callable[[], float]]) -> dict[str, Samples]:
    """Run every candidate once per round, each time starting with another one. Failures are kept, not raised."""
    taken = {name: Samples() for name in candidates}
    names = list(candidates)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            try:
                value = candidates[name]()
            except CandidateFailedError as error:
                taken[name].failures.append(str(error))
                print(f"    round {number + 1}  {name}: failed: {error}", flush=True)
            else:
                taken[name].values.append(value)
                print(f"    round {number + 1}  {name}: {value:,.6g}", flush=True)
    return taken


def ratio(above: float, below: float) -> float:
    """above / below; not-a-number if either is missing or `below` is zero."""
    return above / below if below else math.nan
