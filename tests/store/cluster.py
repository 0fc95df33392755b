"""Workers that only hold leases. Each requests its share and releases what exceeds it, as the lease keeper does."""

from __future__ import annotations

import random
from collections.abc import Mapping

import redis

from celery_partitions.store.leases import Share, balance, leases_of, release
from celery_partitions.store.names import INGRESS, Names, partitions_and_ingress

#: Longer than any test.
LEASE_SECONDS = 3600.0


class Cluster:
    """The living workers of one group. After each step it is checked that fencing tokens only grow."""

    def __init__(self, client: redis.Redis, names: Names, partitions: int, seed: int = 0) -> None:
        self.client, self.names, self.partitions = client, names, partitions
        self.random = random.Random(seed)
        self.workers: dict[str, tuple[str, ...]] = {}
        self._joined = 0
        self._tokens: dict[str, int] = {}
        self._owners: dict[str, str] = {}

    def join(self, *pins: str) -> str:
        """Add a worker. It owns nothing before its first `step`."""
        self._joined += 1
        worker = f"{self.random.randrange(1000):03d}-{self._joined}/w"
        self.workers[worker] = pins
        return worker

    def step(self, worker: str) -> bool:
        """Let a worker check its share. Returns True if something changed, so the others should check theirs too."""
        before, members = leases_of(self.client, self.names, worker), self.members()
        share = self.ask(worker)
        assert share.owned == leases_of(self.client, self.names, worker)
        assert before.items() <= share.owned.items(), "a held lease must keep its token"
        self.check_tokens()
        if share.give_up:
            assert release(self.client, self.names, worker, {u: share.owned[u] for u in share.give_up}) == len(
                share.give_up
            )
            self.check_tokens()
        return bool(share.give_up) or share.owned != before or self.members() != members

    def members(self) -> set[bytes]:
        """The current members. They change with a join, and when a death is detected."""
        return set(self.client.zrange(self.names.workers, 0, -1))  # type: ignore[arg-type]

    def ask(self, worker: str) -> Share:
        return balance(
            self.client,
            self.names,
            worker,
            lease_seconds=LEASE_SECONDS,
            partitions=self.partitions,
            pins=self.workers[worker],
        )

    def leave(self, worker: str) -> None:
        """A clean exit."""
        del self.workers[worker]
        release(self.client, self.names, worker, leases_of(self.client, self.names, worker), leave=True)
        self.check_tokens()

    def die(self, worker: str) -> None:
        """A kill, which the others notice when the lease ends."""
        del self.workers[worker]
        self.client.zadd(self.names.workers, {worker: 1}, xx=True)

    def settle(self) -> None:
        """Let all workers check their shares, in random order, until nothing changes. This must not take long."""
        for _ in range(12):
            order = list(self.workers)
            self.random.shuffle(order)
            if sum(self.step(worker) for worker in order) == 0:
                return
        raise AssertionError(f"the shares never become stable: {self.owners()}")

    def owners(self) -> dict[str, str]:
        """Partition → the living worker that owns it."""
        held: Mapping[bytes, bytes] = self.client.hgetall(self.names.owners)  # type: ignore[assignment]
        found = {partition.decode(): worker.decode() for partition, worker in held.items()}
        return {partition: worker for partition, worker in found.items() if worker in self.workers}

    def loads(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many partitions each worker owns, without and with the ingress."""
        alone, together = dict.fromkeys(self.workers, 0), dict.fromkeys(self.workers, 0)
        for partition, worker in self.owners().items():
            together[worker] += 1
            alone[worker] += partition != INGRESS
        return alone, together

    def check_tokens(self) -> None:
        """Check that a partition's token grows whenever its owner changes, and never shrinks."""
        rows = {partition: self.client.hget(self.names.meta(partition), "token") for partition in partitions_and_ingress(self.partitions)}
        tokens = {partition: int(token) for partition, token in rows.items() if token is not None}  # type: ignore[arg-type]
        owners: Mapping[bytes, bytes] = self.client.hgetall(self.names.owners)  # type: ignore[assignment]
        holders = {partition.decode(): worker.decode() for partition, worker in owners.items()}
        for partition, token in tokens.items():
            assert token >= self._tokens.get(partition, 0)
            if holders.get(partition) != self._owners.get(partition):
                assert token > self._tokens.get(partition, 0), f"{partition} has a new owner with the same token"
        self._tokens, self._owners = tokens, holders
