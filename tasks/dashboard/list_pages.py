"""The pages of the lists: parked keys, computations, workers, keys, audit; and the samples of their charts."""

from __future__ import annotations

import time
from urllib.parse import urlencode

import msgspec
from tornado.web import authenticated

from celery_partitions.admin.computations import look_at_computations
from celery_partitions.admin.key_search import find_keys
from celery_partitions.admin.state_versions import read_versions
from celery_partitions.dashboard.handlers import JSON_TYPE
from celery_partitions.dashboard.list_api import HistoryJson, page_in, parked_query
from celery_partitions.dashboard.lists import (
    find_parked,
    look_at_audit,
    look_at_computations_and_pipelines,
    look_at_ends,
    look_at_workers,
)
from celery_partitions.dashboard.pages import Page


class ListPage(Page):
    """Shared by the pages that have several pages of rows."""

    def page_url(self, name: str, page: int, **query: str) -> str:
        """The address of one page of rows. Empty fields are left out."""
        words = {key: value for key, value in {**query, "page": str(page) if page else ""}.items() if value}
        return str(self.reverse_url(name)) + ("?" + urlencode(words) if words else "")


class ParkedPage(ListPage):
    """GET /partitions/parked?why=…"""

    @authenticated
    async def get(self) -> None:
        query = parked_query(self)
        found = await self.reading(find_parked, self.installation, query, page_in(self))
        self.live.touch()
        asked = {"why": query.why, "task": query.task, "q": query.text, "partition": query.partition}
        self.show("parked.html", query=query, found=found, page_url=lambda page: self.page_url("partitions-parked", page, **asked))


class ComputationsPage(ListPage):
    """GET /partitions/computations"""

    @authenticated
    async def get(self) -> None:
        found = await self.reading(look_at_computations_and_pipelines, self.live.watch, self.installation)
        self.live.touch()
        self.show("computations.html", found=found)


class ComputationPage(ListPage):
    """GET /partitions/computation?name=…"""

    @authenticated
    async def get(self) -> None:
        name = self.word("name")
        found = await self.reading(look_at_computations, self.live.watch, self.installation.computations)
        self.live.touch()
        row = next((one for one in found["computations"] if one["computation"] == name), None)
        self.show("computation.html", name=name, row=row, at=found["at"])


class EndsPage(ListPage):
    """GET /partitions/ends"""

    @authenticated
    async def get(self) -> None:
        self.show("ends.html", found=await self.reading(look_at_ends, self.installation))


class WorkersPage(ListPage):
    """GET /partitions/workers"""

    @authenticated
    async def get(self) -> None:
        found = await self.reading(look_at_workers, self.live.watch, self.installation)
        self.live.touch()
        self.show("workers.html", found=found)


class VersionsPage(ListPage):
    """GET /partitions/versions"""

    @authenticated
    async def get(self) -> None:
        group = self.installation.group
        report = await self.reading(read_versions, group.client, group.names, group.topology.served)
        self.show("versions.html", report=report, now=time.time())


class KeysPage(ListPage):
    """GET /partitions/keys?computation=…&prefix=…"""

    @authenticated
    async def get(self) -> None:
        words = [self.word(name) for name in ("computation", "prefix", "after")]
        found = await self.reading(find_keys, self.installation.group, *words)
        self.show("keys.html", found=found, query=urlencode({"computation": words[0], "prefix": words[1]}))


class AuditPage(ListPage):
    """GET /partitions/audit?q=…"""

    @authenticated
    async def get(self) -> None:
        text = self.word("q")
        found = await self.reading(look_at_audit, self.installation, text, page_in(self))
        self.show("audit.html", text=text, found=found, page_url=lambda page: self.page_url("partitions-audit", page, q=text))


class PageHistory(HistoryJson):
    """Our pages' charts ask for this."""

    @authenticated
    async def get(self) -> None:
        found = await self.found()
        self.set_header("Content-Type", JSON_TYPE)
        self.set_header("Cache-Control", "no-store")
        self.finish(msgspec.json.encode(found))
