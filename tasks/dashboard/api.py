"""What the pages show, as JSON."""

from __future__ import annotations

from tornado.escape import utf8
from tornado.web import HTTPError, authenticated

from celery_partitions.dashboard.handlers import Api
from celery_partitions.dashboard.letters import find_letters
from celery_partitions.dashboard.live import Live
from celery_partitions.dashboard.reading import look_at_key, look_at_unit


class Overview(Api):
    """GET /api/partitions: `at`, `totals`, and `partitions`: a row for each, the ingress last."""

    @authenticated
    async def get(self) -> None:
        live: Live = self.live
        live.touch()
        self.answer(await self.reading(live.watch.to_json))


class Unit(Api):
    """GET /api/partitions/UNIT: its row, parked keys, oldest messages, last 20 commits, hottest and largest keys."""

    @authenticated
    async def get(self, unit: str) -> None:
        self.answer(await self.reading(look_at_unit, self.live.watch, self.installation, self.known_unit(unit)))


class Key(Api):
    """GET /api/partitions/keys/KEY, or ?key=KEY: the key's partition, owner, states, waiting messages, and whether it is parked."""

    @authenticated
    async def get(self, key: str | None = None) -> None:
        in_base64 = self.word("base64") not in ("", "0", "false")
        spelled = self.key_in_query() if key is None else self.key_of(utf8(key), in_base64)
        if spelled is None:
            raise HTTPError(400, "which key? Say ?key=KEY")
        self.answer(await self.reading(look_at_key, self.live.watch, self.installation, spelled))


class Letters(Api):
    """GET /api/partitions/dead-letters, ?q=… ?unit=… ?reason=… ?fingerprint=…: dead letters, similar failures in one group."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.reading(find_letters, self.installation, self.letters_asked()))
