"""What was sent, as its producer knows it: the one side of the verdict. Values only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.chaos.application import ALWAYS, PREFIXES, stage_of


@dataclass(frozen=True, slots=True)
class SentAct:
    """A message of one of the application's computations; no two of them have a key in common."""

    key: str
    number: int
    raises: int = 0
    kills: bool = False
    #: It holds the interpreter lock: applied, or the dead letter that `judge` has found.
    holds: bool = False
    held_up: str | None = None
    #: False for one with an `eta`: it takes its place when it is due.
    ordered: bool = True
    #: It goes into the pipeline.
    flows: bool = False
    #: None: known to be in its queue. Else it may be, and so may all of the same pack, which one push took: all or none.
    pack: str | None = None

    @property
    def dies_of(self) -> str | None:
        """The reason that its dead letter must give; None: it must have none."""
        if self.kills:
            return "kills-the-worker"
        if self.held_up:
            return self.held_up
        return "computation-failed" if self.raises == ALWAYS else None

    @property
    def applied_to(self) -> tuple[str, ...]:
        """The keys whose states it changes, in this order."""
        if not self.flows:
            return () if self.dies_of else (self.key,)
        stages = stage_of(self.number) if self.dies_of else len(PREFIXES)
        return tuple(prefix + self.key for prefix in PREFIXES[:stages])

    @property
    def is_put_out(self) -> bool:
        """Whether it comes to the pipeline's sinks."""
        return self.flows and not self.dies_of


@dataclass(frozen=True, slots=True)
class SentNote:
    """A message of the plain task `note`."""

    number: int
    pack: str | None = None


@dataclass(frozen=True, slots=True)
class SentJunk:
    """A message that can't be taken; no other has these bytes."""

    raw: bytes
    #: The reason that its dead letter must give.
    reason: str
    pack: str | None = None


Sent = SentAct | SentNote | SentJunk


def in_doubt(sent: Sent, pack: str) -> Sent:
    """The same, when its push was not answered."""
    return replace(sent, pack=pack)
