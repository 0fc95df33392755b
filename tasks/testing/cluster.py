"""A cluster of embedded servers on this machine, for the demo and for development."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.retry import Retry

from celery_partitions.testing.server import START_SECONDS, ServerError, embedded_server, free_port

#: A cluster needs three primaries to agree that one of them has failed.
LEAST = 3
#: How long a server is silent before the others look for a replacement.
NODE_TIMEOUT_MILLISECONDS = 2000


@contextmanager
def embedded_cluster(environment: Mapping[str, str], servers: int) -> Iterator[str]:
    """Run a cluster of primaries until the block ends. Yields its URL, for `PARTITIONS_URL`. Raises `ServerError`."""
    if servers < LEAST:
        raise ServerError(f"CLUSTER={servers} is not possible: a cluster needs at least {LEAST} servers")
    with ExitStack() as stack:
        ports, buses = [], []
        for _ in range(servers):
            port, bus = free_port(), free_port()
            stack.enter_context(embedded_server(environment, port, options=cluster_options(bus)))
            ports.append(port)
            buses.append(bus)
        join_cluster(ports, buses)
        yield f"redis+cluster://{','.join(f'127.0.0.1:{port}' for port in ports)}"


def cluster_options(bus: int) -> list[str]:
    """The options of a server in cluster mode. `bus`: the port of its cluster bus; the default, 10,000 above the other, may be in use."""
    options = {"cluster-enabled": "yes", "cluster-port": bus, "cluster-node-timeout": NODE_TIMEOUT_MILLISECONDS, "cluster-require-full-coverage": "no"}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def join_cluster(ports: Sequence[int], buses: Sequence[int], primaries: int | None = None) -> None:
    """Make one cluster of servers on this machine. The first `primaries` share the slots, the others become their replicas. Raises `ServerError`
    if they do not agree in time."""
    count = len(ports) if primaries is None else primaries
    for number, port in enumerate(ports[:count]):
        ask(port, "CLUSTER", "ADDSLOTSRANGE", number * SLOTS // count, (number + 1) * SLOTS // count - 1)
        ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for port, bus in zip(ports[1:], buses[1:], strict=True):
        ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, bus)
    _wait_for(ports, lambda port: _knows(port, len(ports)))
    for number, port in enumerate(ports[count:]):
        ask(port, "CLUSTER", "REPLICATE", ask(ports[number % count], "CLUSTER", "MYID"))
    _wait_for(ports, lambda port: _is_whole(port, len(ports) - count))


def ask(port: int, *words: Any) -> Any:
    """Send a command to a server on this machine."""
    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0), socket_timeout=START_SECONDS) as client:
        return client.execute_command(*words)


def _wait_for(ports: Sequence[int], is_ready: Callable[[int], bool]) -> None:
    deadline = time.monotonic() + 4 * START_SECONDS
    while not all(map(is_ready, ports)):
        if time.monotonic() > deadline:
            raise ServerError("the servers did not form a cluster in time")
        time.sleep(0.05)


def _knows(port: int, others: int) -> bool:
    return f"cluster_known_nodes:{others}\r" in ask(port, "CLUSTER", "INFO").decode() and "handshake" not in ask(port, "CLUSTER", "NODES").decode()


def _is_whole(port: int, replicas: int) -> bool:
    info, lines = ask(port, "CLUSTER", "INFO").decode(), ask(port, "CLUSTER", "NODES").decode().splitlines()
    return "cluster_state:ok" in info and f"cluster_slots_ok:{SLOTS}" in info and sum(" slave " in line or "myself,slave" in line for line in lines) == replicas
