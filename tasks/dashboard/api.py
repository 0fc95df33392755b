"""The JSON API: the same data as on the pages."""

from __future__ import annotations

from tornado.escape import utf8
from tornado.web import HTTPError, authenticated

from celery_partitions.admin.attention_watch import attention_json
from celery_partitions.admin.state_versions import read_versions
from celery_partitions.dashboard.dead_letters import find_dead_letters
from celery_partitions.dashboard.handlers import Api
from celery_partitions.dashboard.live import Live
from celery_partitions.dashboard.page_data import look_at_key, look_at_partition


class Overview(Api):
    """GET /api/partitions: `at`, `totals`, and `partitions` (one row each, the ingress last)."""

    @authenticated
    async def get(self) -> None:
        live: Live = self.live
        live.touch()
        self.answer(await self.reading(live.watch.to_json))


class Versions(Api):
    """GET /api/partitions/versions: `computations` (versions of their states and workers), `workers` (their code), and `waits`: what a deploy waits for."""

    @authenticated
    async def get(self) -> None:
        group = self.installation.group
        self.answer(await self.reading(read_versions, group.client, group.names, group.topology.served))


class Attention(Api):
    """GET /api/partitions/attention: what needs an operator, worst first: rule, severity, what, why, since, action, page, count."""

    @authenticated
    async def get(self) -> None:
        self.answer(attention_json(await self.reading(self.live.watch.attention.look)))


class Partition(Api):
    """GET /api/partitions/PARTITION: its row, parked keys, oldest messages, last 20 commits, next timers, hottest and largest keys."""

    @authenticated
    async def get(self, partition: str) -> None:
        self.answer(await self.reading(look_at_partition, self.live.watch, self.installation, self.known_partition(partition)))


class Key(Api):
    """GET /api/partitions/keys/KEY, or ?key=KEY: the key's partition, owner, states, waiting messages, and whether it is parked."""

    @authenticated
    async def get(self, key: str | None = None) -> None:
        in_base64 = self.word("base64") not in ("", "0", "false")
        spelled = self.key_in_query() if key is None else self.key_of(utf8(key), in_base64)
        if spelled is None:
            raise HTTPError(400, "the key is missing: add ?key=KEY")
        self.answer(await self.reading(look_at_key, self.live.watch, self.installation, spelled))


class DeadLetters(Api):
    """GET /api/partitions/dead-letters, ?q=… ?partition=… ?reason=… ?fingerprint=…: dead letters, similar failures in one group."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.reading(find_dead_letters, self.installation, self.dead_letter_query()))
