"""The lists over the whole group. Each has a page and an address of the JSON API, which show the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from tornado.web import HTTPError, authenticated

from celery_partitions.admin.computations import look_at_computations
from celery_partitions.admin.key_search import find_keys
from celery_partitions.admin.state_versions import read_versions
from celery_partitions.dashboard.dead_letters import MAX_OF_ONE_GROUP, find_dead_letters
from celery_partitions.dashboard.handlers import Api, Common
from celery_partitions.dashboard.lists import (
    ParkedQuery,
    find_parked,
    look_at_audit,
    look_at_computations_and_pipelines,
    look_at_ends,
    look_at_workers,
)
from celery_partitions.dashboard.live import live_of
from celery_partitions.dashboard.pages import Page

#: A page with more rows takes long to read, and refreshes itself less often.
MANY_ROWS, MANY_SECONDS = 2_000, 60


class View(NamedTuple):
    """A list, at `/partitions/NAME` with the template `NAME.html`, and at `/api/partitions/NAME`."""

    name: str
    #: The page's heading. Empty: `?name=` of the query.
    title: str
    #: Called in the executor.
    read: Callable[[Common], dict[str, Any]]
    #: For the API's documentation.
    help: str
    #: 0: the page does not refresh itself.
    refresh_seconds: int = 5
    #: The name of the API's address, and of the page's tab, if they differ.
    api_name: str = ""
    tab: str = ""


class ViewPage(Page):
    """The page of a view."""

    def initialize(self, view: View) -> None:
        self.view, self.here = view, f"partitions-{view.tab or view.name}"

    @authenticated
    async def get(self) -> None:
        live = self.live
        found = await self.reading(self.view.read, self)
        live.touch()
        refresh_seconds = MANY_SECONDS if found.get("total", 0) > MANY_ROWS else self.view.refresh_seconds
        now, title = found.get("at", time.time()), self.view.title or self.word("name")
        self.show(f"{self.view.name}.html", found=found, now=now, title=title, refresh_seconds=refresh_seconds)


class ViewApi(Api):
    """The API's address of a view."""

    def initialize(self, view: View) -> None:
        self.view = view

    @authenticated
    async def get(self) -> None:
        live_of(self.application, self.installation)  # made in the event loop, for what runs in the executor
        self.answer(await self.reading(self.view.read, self))


def page_in(asked: Common) -> int:
    """The number of the page in the query, from 0."""
    word = asked.word("page", "0")
    if not word.isdigit() or len(word) > 9:
        raise HTTPError(400, "page must be a number from 0")
    return int(word)


def _parked(asked: Common) -> dict[str, Any]:
    partition = asked.word("partition")
    query = ParkedQuery(asked.word("why"), asked.word("task"), asked.word("q"), asked.known_partition(partition) if partition else "")
    return find_parked(asked.installation, query, page_in(asked))


def _dead_letters(asked: Common) -> dict[str, Any]:
    word = asked.word("shown")
    shown = max(1, int(word)) if word.isdigit() and len(word) < 6 else MAX_OF_ONE_GROUP
    return find_dead_letters(asked.installation, asked.dead_letter_query(), shown)


def _computation(asked: Common) -> dict[str, Any]:
    found, name = look_at_computations(asked.live.watch, asked.installation.computations), asked.word("name")
    return {"at": found["at"], "computation": next((one for one in found["computations"] if one["computation"] == name), None)}


def _versions(asked: Common) -> dict[str, Any]:
    group = asked.installation.group
    return asdict(read_versions(group.client, group.names, group.topology.served))


def _keys(asked: Common) -> dict[str, Any]:
    return find_keys(asked.installation.group, asked.word("computation"), asked.word("prefix"), asked.word("after"))


VIEWS = (
    View("computations", "Computations", lambda asked: look_at_computations_and_pipelines(asked.live.watch, asked.installation), "rates, latency, failures, calls in flight against concurrency, parked keys of each computation; `pipelines`: parts, edges, what flows and waits."),
    View("computation", "", _computation, "?name=…: one computation, as in that list.", tab="computations"),
    View("workers", "Workers", lambda asked: look_at_workers(asked.live.watch, asked.installation), "code, age, memory, partitions, rate, calls in flight and running keys of each worker."),
    View("versions", "Versions", _versions, "`computations` (versions of their states and workers), `workers` (their code), and `waits`: what a deploy waits for."),
    View("parked", "Parked keys", _parked, "?why=… ?task=… ?q=… ?partition=… ?page=…: parked keys of the whole group, longest waiting first."),
    View("dead-letters", "Dead letters", _dead_letters, "?q=… ?partition=… ?reason=… ?task=… ?fingerprint=…: dead letters, similar failures in one group.", 10),
    View("keys", "Keys", _keys, "?computation=… ?prefix=… ?after=…: keys that begin with a text; `more` continues the search.", 0, "find-keys"),
    View("ends", "Sinks and sources", lambda asked: look_at_ends(asked.installation), "sinks and sources that have processes: what waits, rates, parked keys, dead letters, leases."),
    View("audit", "Audit", lambda asked: look_at_audit(asked.installation, asked.word("q"), page_in(asked)), "?q=… ?page=…: what operators did, newest first."),
)  # fmt: skip
