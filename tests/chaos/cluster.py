"""A stage whose partitions are on a cluster: primaries, each with a replica, and a line to each server. And the faults of such a cluster.

What asynchronous replication may lose is declared, not excused: a push counts as certain when a replica had it (`replication`). A primary is
killed or paused only while its replica answers. Everything else must hold as on one server: what workers sent from server to server had
waited for a replica, and what a target lost is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from tests.chaos.schedule import Injection
from tests.chaos.stage import Stage
from tests.support.cluster import SLOTS, RedisCluster
from tests.support.server import RedisServer
from tests.support.wait import wait_until

#: Longer than a server takes to load its file, to become a replica and to get its first copy, on a busy machine.
HEAL_SECONDS = 120.0
#: A paused server answers nobody.
ASK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Done:
    """A description of what was done. `end`: the call that ends it after the injection's seconds, with its description."""

    text: str
    end: tuple[str, Callable[[], object]] | None = None


class ClusterStage(Stage):
    """`primaries` servers with a replica each. The control server is a server of its own, as in `Stage`."""

    def __init__(self, primaries: int, directory: Path, seed: int, engine: Mapping[str, str], *, keeps_all: bool = True) -> None:
        super().__init__(directory, seed, engine, keeps_all=keeps_all)
        # A server that is killed has written its commands to its file, so it comes back with them.
        self.cluster = RedisCluster(primaries, replicas=1, has_lines=True, appendonly="yes", appendfsync="everysec")
        self.failovers = self.moves = 0

    def start_cluster(self, enter: Callable[[Any], Any]) -> Mapping[str, object]:
        enter(self.cluster)
        return {"PARTITIONS_URL": self.cluster.url()}

    def folders(self) -> Mapping[str, Path]:
        return {**super().folders(), **{f"server-{number}": server.directory for number, server in enumerate(self.cluster.servers)}}

    def calm(self) -> None:
        wait_until(self.is_whole, HEAL_SECONDS, message="the cluster does not become whole again")
        super().calm()

    def slots(self) -> dict[int, RedisServer]:
        """The server of each slot, as a server that answers sees it."""
        by_port = {line.port: server for line, server in zip(self.cluster.lines, self.cluster.servers, strict=True)}
        answers = [answer for server in self.cluster.servers if isinstance(answer := ask(server, "CLUSTER", "SLOTS"), list)]
        widest = max(answers, key=len, default=[])
        return {slot: by_port[owner[1]] for start, end, owner, *_ in widest for slot in range(start, end + 1)}

    def is_whole(self) -> bool:
        """Whether each server answers, and each primary has a replica that has everything."""
        owners = set(self.slots().values())
        for server in self.cluster.servers:
            info = ask(server, "CLUSTER", "INFO")
            if info is None or f"cluster_slots_ok:{SLOTS}".encode() not in info or b"cluster_state:ok" not in info:
                return False
        return len(owners) == len(self.cluster.primaries) and all(self.is_copied(server) for server in owners)

    def is_copied(self, server: RedisServer) -> bool:
        """Whether a replica has everything that a primary has written until now."""
        with server.client(socket_timeout=ASK_SECONDS) as client:
            try:
                with client.pipeline(transaction=False) as pipe:
                    pipe.execute_command("PUBLISH", "chaos", "")
                    pipe.execute_command("WAIT", 1, int(ASK_SECONDS * 500))
                    return bool(pipe.execute()[1])
            except redis.RedisError:
                return False


def ask(server: RedisServer, *words: Any) -> Any:
    """A server's answer; None if it does not answer."""
    if not server.running:
        return None
    with server.client(socket_timeout=ASK_SECONDS) as client:
        try:
            return client.execute_command(*words)
        except redis.RedisError:
            return None


def to_cluster(injection: Injection, stage: ClusterStage) -> Done:
    """Carry out a fault of the cluster."""
    assert injection.target is not None
    cluster, number = stage.cluster, injection.target
    match injection.kind:
        case "kill primary" | "pause primary":
            return _to_primary(injection, number, stage)
        case "move slot":
            return _move(number, stage)
        case "cut server":
            cluster.lines[number].cut()
            return Done(f"the line of server {number} is cut")
        case "silence server":
            line = cluster.lines[number]
            line.freeze()
            return Done(f"the line of server {number} is silent for {injection.seconds} s", (f"the line of server {number} answers again", line.thaw))
        case "lose requests to server":
            stage.faults.append(cluster.lines[number].cut_before_request(injection.marker, injection.times))
        case _:
            stage.faults.append(cluster.lines[number].cut_before_reply(injection.marker, injection.times))
    return Done(f"server {number}: {injection.kind}, the next {injection.times} with {injection.marker.decode()!r}")


def _to_primary(injection: Injection, number: int, stage: ClusterStage) -> Done:
    if not stage.is_whole():
        return Done(f"no {injection.kind}: the cluster is not whole yet")
    owners = sorted(set(stage.slots().values()), key=lambda server: server.port)
    server = owners[number % len(owners)]
    name = f"server {stage.cluster.servers.index(server)}"
    stage.failovers += 1
    if injection.kind == "pause primary":
        server.pause()
        return Done(f"SIGSTOP to the primary {name} for {injection.seconds} s", (f"SIGCONT to {name}", server.resume))
    server.kill()
    return Done(f"SIGKILL to the primary {name} for {injection.seconds} s", (f"{name} starts again", server.start))


def _move(partition: int, stage: ClusterStage) -> Done:
    if not stage.is_whole():
        return Done("no slot is moved: the cluster is not whole yet")
    slot = key_slot(stage.live.names.queue(str(partition)).encode())
    owners = stage.slots()
    source = owners[slot]
    others = sorted({server for server in owners.values() if server is not source}, key=lambda server: server.port)
    target = others[stage.moves % len(others)]
    stage.moves += 1
    stage.cluster.primaries = [source, *others]
    stage.cluster.migrate_slot(slot, source, target)
    text = f"the slot of partition {partition} moves from server {stage.cluster.servers.index(source)} to {stage.cluster.servers.index(target)}"
    return Done(text)
