"""Which faults are injected, when, and into which process: a pure function of a seed and a number of seconds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "kill",
    "freeze",
    "leave",
    "quit",
    "join",
    "cut",
    "lose requests",
    "lose replies",
    "silence",
    "kill server",
    "restart server",
    "pause server",
    "flush scripts",
    "malformed",
    "raising",
    "poison",
    "hang",
    "hold",
    "crowd",
    "pause partition",
    "drain worker",
    "forget state",
    "retry parked",
    "resend",
    "kill primary",
    "pause primary",
    "move slot",
    "cut server",
    "silence server",
    "lose requests to server",
    "lose replies of server",
]
#: Only if the partitions are on a cluster.
CLUSTER_KINDS: tuple[Kind, ...] = get_args(Kind)[-7:]
KINDS: tuple[Kind, ...] = get_args(Kind)[:-7]

#: The number of workers at the beginning. They are numbered from 0; a new worker gets the next number.
WORKERS = 3
MAX_WORKERS = 4
#: The number of lines to the server. Workers use them in turn, by their number. Each line can be cut separately.
LINES = 2
PRODUCERS = 2
PARTITIONS = 4

#: Short, so that many faults are longer.
LEASE_SECONDS = 1.0

#: How often each kind occurs in a round of all kinds (default: once). A round takes about `len(deck) × 0.7 s`.
OFTEN: dict[Kind, int] = {"kill": 2, "freeze": 3, "join": 4, "cut": 2, "lose replies": 3, "malformed": 2, "raising": 2, "kill primary": 2, "move slot": 4, "lose replies of server": 2}
GAP_SECONDS = (0.1, 1.3)
#: No fault at the very beginning, and none of the server within this time after another one.
PEACE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Injection:
    """One injected fault. `at`: seconds since the beginning."""

    at: float
    kind: Kind
    #: The number of a worker, a line, a producer, a partition or a server of the cluster; None for the server.
    target: int | None = None
    #: How long it lasts; 0 if it happens at one moment.
    seconds: float = 0.0
    #: How many requests, replies or messages.
    times: int = 0
    #: Bytes that the lost request, or the request of the lost reply, contains.
    marker: bytes = b""


#: Bytes in the requests that are lost, or whose replies are. They are found in: a commit with effects; any script (also
#: peeks and leases); the scripts of leases; the read that waits for messages.
MARKERS = (b"HINCRBY", b"HINCRBY", b"HINCRBY", b"HINCRBY", b"EVALSHA", b":workers", b"LRANGE")
#: Shortest and longest silence, in leases. A silent owner loses its partitions after 2/3 to 1 lease. Half of the silences
#: end about then, while the next owner runs the same batch.
SILENCES = ((0.3, 3.0), (0.7, 1.3))
#: The same at the servers of a cluster, and what a source sends to a target. A cluster needs two seconds to replace a primary.
SERVER_MARKERS = (b"HINCRBY", b"HINCRBY", b"EVALSHA", b":received", b":received", b"LRANGE", b"WAIT")
KILLED_SECONDS, PAUSED_SECONDS = 9.0, 5.0
#: Every push of a producer contains this.
PUSH = b"LPUSH"


def make_schedule(seed: int, seconds: float, servers: int = 0) -> tuple[Injection, ...]:
    """The injections of a run, in order of time. `servers`: of a cluster. The same arguments give the same schedule."""
    return tuple(_Schedule(random.Random(f"chaos {seed}"), seconds, servers).injections())


class _Schedule:
    """Deals kinds from a shuffled deck, so that a short run has nearly all of them. Knows which workers run."""

    def __init__(self, random: random.Random, seconds: float, servers: int) -> None:
        self.random, self.seconds, self.servers = random, seconds, servers
        self.present = list(range(WORKERS))
        self.next_worker = WORKERS
        self.server_free_at = 0.0
        self.deck: list[Kind] = []

    def injections(self) -> Iterator[Injection]:
        at = PEACE_SECONDS
        while True:
            if not self.deck:
                self.deck = [kind for kind in (*KINDS, *(CLUSTER_KINDS if self.servers else ())) for _ in range(OFTEN.get(kind, 1))]
                self.random.shuffle(self.deck)
            kind = self.deck.pop()
            if kind in ("kill server", "restart server", "pause server", "kill primary", "pause primary", "silence server", "move slot"):
                at = max(at, self.server_free_at)
            if at >= self.seconds:
                return
            injection = self.make(round(at, 2), self.possible(kind))
            yield injection
            at += self.random.uniform(*GAP_SECONDS)

    def possible(self, kind: Kind) -> Kind:
        """The kind, or its opposite if there are too few or too many workers for it."""
        if kind in ("kill", "leave", "quit") and len(self.present) < 2:
            return "join"
        return "kill" if kind == "join" and len(self.present) >= MAX_WORKERS else kind

    def make(self, at: float, kind: Kind) -> Injection:
        choose = self.random.choice
        match kind:
            case "kill" | "leave" | "quit":
                return Injection(at, kind, self.present.pop(self.random.randrange(len(self.present))))
            case "join":
                self.present.append(self.next_worker)
                self.next_worker += 1
                return Injection(at, kind, self.present[-1])
            case "freeze":
                return Injection(at, kind, choose(self.present), self.silence())
            case "cut":
                return Injection(at, kind, self.random.randrange(LINES))
            case "silence":
                return Injection(at, kind, self.random.randrange(LINES), self.silence())
            case "lose requests" | "lose replies":
                line, times, marker = self.random.randrange(LINES), self.random.randint(1, 4), choose(MARKERS)
                return Injection(at, kind, line, times=times, marker=marker)
            case "kill server" | "restart server" | "pause server":
                seconds = round(self.random.uniform(0.0, 3.0), 2)
                self.server_free_at = at + seconds + PEACE_SECONDS
                return Injection(at, kind, seconds=seconds)
            case "kill primary" | "pause primary" | "silence server":
                seconds = self.silence() if kind == "silence server" else round(self.random.uniform(0.0, KILLED_SECONDS if kind == "kill primary" else PAUSED_SECONDS), 2)
                self.server_free_at = at + seconds + PEACE_SECONDS
                return Injection(at, kind, self.random.randrange(self.servers), seconds=seconds)
            case "move slot":
                return Injection(at, kind, self.random.randrange(PARTITIONS))
            case "cut server":
                return Injection(at, kind, self.random.randrange(self.servers))
            case "lose requests to server" | "lose replies of server":
                return Injection(at, kind, self.random.randrange(self.servers), times=self.random.randint(1, 4), marker=choose(SERVER_MARKERS))
            case "flush scripts" | "retry parked":
                return Injection(at, kind)
            case "pause partition":
                return Injection(at, kind, self.random.randrange(PARTITIONS), self.silence())
            case "drain worker":
                return Injection(at, kind, choose(self.present), self.silence())
            case "forget state":
                return Injection(at, kind, times=self.random.randint(1, 8))
            case "poison" | "hang" | "hold":
                return Injection(at, kind, self.random.randrange(PRODUCERS), times=1)
            case "crowd":
                return Injection(at, kind, times=self.random.randint(300, 1000))
            case "malformed" | "raising":
                return Injection(at, kind, self.random.randrange(PRODUCERS), times=self.random.randint(1, 8))
            case "resend":
                return Injection(at, kind, times=self.random.randint(1, 2), marker=PUSH)

    def silence(self) -> float:
        return round(self.random.uniform(*self.random.choice(SILENCES)) * LEASE_SECONDS, 2)
