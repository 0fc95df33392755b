"""What was sent, as its producer knows it. The verdict compares it with what was found. Values only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.chaos.acts import ALWAYS
from tests.chaos.application import LIST, PREFIXES, STREAM, stage_of
from tests.chaos.expiry import REMEMBERED
from tests.chaos.sends import HEARD, TOLD

#: Packs whose names begin with this were answered, but no replica was known to have them: a failover may have lost them.
UNKEPT = "unkept"


@dataclass(frozen=True, slots=True)
class SentAct:
    """A message of one of the application's computations. No two computations share a key."""

    key: str
    number: int
    raises: int = 0
    kills: bool = False
    #: It holds the interpreter lock. It is either applied or a dead letter; `judge` puts the reason it found into `held_up`.
    holds: bool = False
    held_up: str | None = None
    #: False for a message with an `eta`: its place is decided when it is due.
    ordered: bool = True
    #: How it was sent (`traffic.Way`): "flow" goes through the pipeline, and so on.
    way: str = ""
    #: None: it is certainly in its queue. Else it may be: the messages of a pack were sent in one push, so all of them are in or none.
    pack: str | None = None

    @property
    def dies_of(self) -> str | None:
        """The expected reason of its dead letter; None: there must be no dead letter."""
        if self.kills:
            return "kills-the-worker"
        if self.held_up:
            return self.held_up
        return "computation-failed" if self.raises == ALWAYS else None

    @property
    def applied_to(self) -> tuple[str, ...]:
        """The keys whose states it changes, in order."""
        match self.way:
            case "flow":
                stages = stage_of(self.number) if self.dies_of else len(PREFIXES)
                return tuple(prefix + self.key for prefix in PREFIXES[:stages])
            case _ if self.dies_of:
                return ()
            case "sends":
                return self.key, HEARD + self.key
            case "expiry":
                return (REMEMBERED + self.key,)
        return (self.key,)

    @property
    def sinks(self) -> tuple[str, ...]:
        """The sinks that it reaches."""
        return () if self.dies_of else {"flow": (STREAM, LIST), "sends": (TOLD,)}.get(self.way, ())


@dataclass(frozen=True, slots=True)
class SentNote:
    """A message of the plain task `note`."""

    number: int
    pack: str | None = None


@dataclass(frozen=True, slots=True)
class SentJunk:
    """An invalid message. No other message has these bytes."""

    raw: bytes
    #: The expected reason of its dead letter.
    reason: str
    pack: str | None = None


Sent = SentAct | SentNote | SentJunk


def in_doubt(sent: Sent, pack: str) -> Sent:
    """The same message, if its push was not answered."""
    return replace(sent, pack=pack)
