"""The JSON API of the lists: the same data as on their pages; and actions on many parked keys."""

from __future__ import annotations

from typing import Any

import msgspec
from tornado.web import HTTPError, authenticated

from celery_partitions.admin.history_json import RANGES
from celery_partitions.admin.key_search import find_keys
from celery_partitions.dashboard.handlers import Action, Api, Common
from celery_partitions.dashboard.lists import (
    ParkedQuery,
    find_parked,
    look_at_audit,
    look_at_computations_and_pipelines,
    look_at_ends,
    look_at_history,
    look_at_workers,
)


def page_in(handler: Common) -> int:
    """The number of the page in the query, from 0."""
    word = handler.word("page", "0")
    if not word.isdigit() or len(word) > 9:
        raise HTTPError(400, "page must be a number from 0")
    return int(word)


def parked_query(handler: Common) -> ParkedQuery:
    """The selection of parked keys in the query."""
    partition = handler.word("partition")
    return ParkedQuery(
        handler.word("why"), handler.word("task"), handler.word("q"), handler.known_partition(partition) if partition else ""
    )


class Parked(Api):
    """GET /api/partitions/parked, ?why=… ?task=… ?q=… ?partition=… ?page=…: parked keys of the whole group, longest waiting first."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.reading(find_parked, self.installation, parked_query(self), page_in(self)))


class Computations(Api):
    """GET /api/partitions/computations: rates, latency, failures, calls in flight against concurrency, parked keys of each computation; `pipelines`: parts, edges, what flows and waits."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.reading(look_at_computations_and_pipelines, self.live.watch, self.installation))


class EndsApi(Api):
    """GET /api/partitions/ends: sinks and sources that have processes: what waits, rates, parked keys, dead letters, leases."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.reading(look_at_ends, self.installation))


class Workers(Api):
    """GET /api/partitions/workers: code, age, memory, partitions, rate, calls in flight and running keys of each worker."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.reading(look_at_workers, self.live.watch, self.installation))


class Audit(Api):
    """GET /api/partitions/audit, ?q=… ?page=…: what operators did, newest first."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.reading(look_at_audit, self.installation, self.word("q"), page_in(self)))


class FindKeys(Api):
    """GET /api/partitions/find-keys, ?computation=… ?prefix=… ?after=…: keys that begin with a text; `more` continues the search."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.reading(find_keys, self.installation.group, self.word("computation"), self.word("prefix"), self.word("after")))


class HistoryJson(Common):
    """Shared by the page's and the API's history."""

    async def found(self) -> dict[str, Any]:
        word, partition = self.word("seconds", "3600"), self.word("partition")
        if word not in map(str, RANGES):
            raise HTTPError(400, f"seconds must be one of {', '.join(map(str, RANGES))}")
        if partition:
            self.known_partition(partition)
        return await self.reading(look_at_history, self.live.watch, self.installation, int(word), partition, self.word("computation"))


class History(HistoryJson, Api):
    """GET /api/partitions/history, ?seconds=… ?partition=… ?computation=…: a chart's samples and marks, from what workers wrote."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.found())


class ParkedMany(msgspec.Struct, forbid_unknown_fields=True):
    """Selects parked keys. `limit`: only the first ones, longest waiting first."""

    why: str = ""
    task: str = ""
    text: str = ""
    partition: str = ""
    limit: int | None = None


class ParkedManyAction(Action):
    """POST /api/partitions/parked/retry, …/skip: retry or skip the failed messages of all matching parked keys, or of the first `limit`."""

    @authenticated
    async def post(self, what: str) -> None:
        self.check_writable()
        body = self.body(ParkedMany)
        if body.why == "running":
            raise HTTPError(400, "the calls of running keys are in flight; there is nothing to retry or skip")
        query = ParkedQuery(body.why, body.task, body.text, self.known_partition(body.partition) if body.partition else "")
        self.answer(await self.acting(self._act, what, query, body.limit))

    def _act(self, what: str, query: ParkedQuery, limit: int | None) -> dict[str, Any]:
        keys = self.installation.group.parked_keys
        found = query.find(keys)[:limit]
        if what == "retry":
            answers = [keys.retry(one.key, by=self.who) for one in found]
        else:
            answers = [keys.skip(one.key, by=self.who, of=one) for one in found]
        done = answers.count("ok")
        words = "will be retried now" if what == "retry" else "skipped: their failed messages are dead letters"
        left = f"; {len(found) - done:,} had changed meanwhile" if done < len(found) else ""
        return {"done": done, "message": f"{done:,} of {len(found):,} keys {words}{left}"}
