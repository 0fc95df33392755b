"""What was sent, as its producer knows it: the one side of the verdict. Values only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.chaos.application import ALWAYS


@dataclass(frozen=True, slots=True)
class SentAct:
    """A message of one of the application's computations; no two of them have a key in common."""

    key: str
    number: int
    raises: int = 0
    kills: bool = False
    #: False for one with an `eta`: it takes its place when it is due.
    ordered: bool = True
    #: None: known to be in its queue. Else it may be, and so may all of the same pack, which one push took: all or none.
    pack: str | None = None

    @property
    def dies_of(self) -> str | None:
        """The reason that its dead letter must give; None: it must have none."""
        if self.kills:
            return "kills-the-worker"
        return "computation-failed" if self.raises == ALWAYS else None


@dataclass(frozen=True, slots=True)
class SentNote:
    """A message of the ordinary task `note`."""

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
