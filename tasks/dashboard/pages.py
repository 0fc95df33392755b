"""The pages: all partitions, one partition, one key, the dead letters."""

from __future__ import annotations

from itertools import islice
from typing import Any
from urllib.parse import urlencode

import msgspec
from tornado.web import HTTPError, authenticated

from celery_partitions.admin.documents import json_dead_letter
from celery_partitions.dashboard import formatting
from celery_partitions.dashboard.handlers import NOT_INSTALLED, Common
from celery_partitions.dashboard.loader import static_version
from celery_partitions.dashboard.page_data import look_at_key, look_at_partition
from celery_partitions.dashboard.protection import STRICT_POLICY
from celery_partitions.dashboard.recent_tasks import of_key, of_partition
from celery_partitions.runtime.registry import installation_of
from celery_partitions.store.names import INGRESS

#: Dead letters that a download reads before it sends them.
LINES_AT_ONCE = 100


class Page(Common):
    """A page in Flower's layout. Its data is read first. If Redis is not reachable, the page says so and retries."""

    #: The name of its tab's address; empty for a page without a tab.
    here = ""

    def show(self, template: str, **values: Any) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", STRICT_POLICY)
        self.render(f"partitions/{template}", **values)

    def get_template_namespace(self) -> dict[str, Any]:
        page = {"cant_act": self.why_not_acting, "version": static_version(), "here": self.here, "sink": self.word("sink")}
        asked = {name: self.word(name) for name in self.request.query_arguments}
        own = {"asked": asked, "word": self.word, "url": self.url, "key_url": self.key_url}
        return {**super().get_template_namespace(), **formatting.HELPERS, **page, **own}

    def url(self, name: str, /, *words: object, **query: object) -> str:
        """The address of a page, in the same sink's group. Query fields that are empty are left out."""
        given = {key: value for key, value in {"sink": self.word("sink"), **query}.items() if value}
        return str(self.reverse_url(name, *words)) + ("?" + urlencode(given) if given else "")

    def key_url(self, one: dict[str, Any]) -> str:
        """The address of a key's page. `one`: the key in its JSON form."""
        if "key_base64" in one:
            return self.url("partitions-key", key=one["key_base64"], base64=1)
        return self.url("partitions-key", key=one["key"]) if one["key"] else self.url("partitions-key") + "?key="

    def write_error(self, status_code: int, **more: Any) -> None:
        if status_code not in (409, 503):
            super().write_error(status_code, **more)
            return
        error = (more.get("exc_info") or (None, None))[1]
        self.set_status(status_code)
        self.show("unavailable.html", error=error.get_message() if isinstance(error, HTTPError) else "")


class PartitionsPage(Page):
    """GET /partitions. It reads nothing itself; the rows come with the first event."""

    here = "partitions"

    @authenticated
    async def get(self) -> None:
        if installation_of(self.application.capp) is None:
            raise HTTPError(404, NOT_INSTALLED)
        if self.word("sink"):  # its one queue has a page
            self.redirect(self.url("partition", 0))
            return
        self.live.touch()
        self.show("overview.html")


class PartitionPage(Page):
    """GET /partition/PARTITION"""

    @authenticated
    async def get(self, partition: str) -> None:
        self.known_partition(partition)
        found = await self.reading(look_at_partition, self.live.watch, self.installation, partition)
        self.live.touch()
        seen = []
        if partition != INGRESS and not self.word("sink"):
            seen = of_partition(self.application.events.state, int(partition), self.installation)
        self.show("partition.html", partition=partition, row=found, tasks_seen=seen)


class KeyPage(Page):
    """GET /partitions/key?key=…"""

    @authenticated
    async def get(self) -> None:
        key = self.key_in_query()
        if key is None:
            self.show("key.html", found=None, tasks_seen=[], searches=[])
            return
        found = await self.reading(look_at_key, self.live.watch, self.installation, key)
        seen = of_key(self.application.events.state, key)
        names = {one["computation"] for one in found["states"]} | {one["name"] for one in seen}
        tasks = str(self.reverse_url("tasks"))
        searches = [(name, tasks + query) for name in sorted(names) if (query := formatting.tasks_query(name, found["key"]))]
        self.show("key.html", found=found, tasks_seen=seen, searches=searches)


class DeadLettersDownload(Page):
    """GET /partitions/dead-letters.jsonl?q=…: the matching dead letters, one JSON per line, with their messages."""

    @authenticated
    async def get(self) -> None:
        query, dead_letters = self.dead_letter_query(), self.installation.group.dead_letters
        self.set_header("Content-Type", "application/jsonl; charset=UTF-8")
        self.set_header("Content-Disposition", 'attachment; filename="dead-letters.jsonl"')
        self.set_header("Cache-Control", "no-store")
        found = (json_dead_letter(one) for one in dead_letters.all() if query.fits(one))
        while lines := await self.blocking(lambda: [msgspec.json.encode(one) for one in islice(found, LINES_AT_ONCE)]):
            self.write(b"\n".join(lines) + b"\n")
            await self.flush()
