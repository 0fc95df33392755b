"""The JSON API: the same data as on the pages."""

from __future__ import annotations

from tornado.escape import utf8
from tornado.web import HTTPError, authenticated

from celery_partitions.admin.attention_watch import attention_json
from celery_partitions.admin.history_json import RANGES
from celery_partitions.dashboard.handlers import Api, Common
from celery_partitions.dashboard.lists import look_at_history
from celery_partitions.dashboard.live import Live
from celery_partitions.dashboard.page_data import look_at_key, look_at_partition


class Overview(Api):
    """GET /api/partitions: `at`, `totals`, and `partitions` (one row each, the ingress last)."""

    @authenticated
    async def get(self) -> None:
        live: Live = self.live
        live.touch()
        self.answer(await self.reading(live.watch.to_json))


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


class PageHistory(Common):
    """Our pages' charts ask for this."""

    @authenticated
    async def get(self) -> None:
        word, partition = self.word("seconds", "3600"), self.word("partition")
        if word not in map(str, RANGES):
            raise HTTPError(400, f"seconds must be one of {', '.join(map(str, RANGES))}")
        if partition:
            self.known_partition(partition)
        self.answer(await self.reading(look_at_history, self.live.watch, self.installation, int(word), partition, self.word("computation")))


class History(PageHistory, Api):
    """GET /api/partitions/history, ?seconds=… ?partition=… ?computation=…: a chart's samples and marks, from what workers wrote."""
