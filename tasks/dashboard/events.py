"""The live overview: server-sent events, and for a page that gets none the same by polling.

The first event has the last five minutes of every row; those after it have the rows alone, and the page continues the lines by itself,
so that an event stays small whatever N is. When Redis is away an `unreachable` event says why, and `overview` events go on by
themselves when it is back.
"""

from __future__ import annotations

import asyncio

import msgspec
from tornado.iostream import StreamClosedError
from tornado.web import authenticated

from celery_partitions.dashboard.handlers import JSON_TYPE, Api, Common
from celery_partitions.dashboard.live import FAILURES, said


class Events(Common):
    """One listener."""

    _waiting: asyncio.Task[None] | None = None

    @authenticated
    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")  # nginx would keep events until it has a buffer full
        self._waiting = asyncio.ensure_future(self._tell())
        try:
            await self._waiting
        except (StreamClosedError, asyncio.CancelledError):
            return

    async def _tell(self) -> None:
        live = self.live
        self.write("retry: 2000\n\n")
        told = False
        while True:
            if told:
                overview, error = await live.next()
            else:
                try:
                    overview, error, told = await live.whole(), "", True
                except FAILURES as failure:
                    overview, error = None, said(failure)
            self._write(overview, error)
            await self.flush()
            if not told:
                await live.next()

    def _write(self, overview: bytes | None, error: str) -> None:
        if overview is None:
            self.write(b"event: unreachable\ndata: " + msgspec.json.encode({"error": error}) + b"\n\n")
        else:
            self.write(b"event: overview\ndata: " + overview + b"\n\n")

    def on_connection_close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()


class PageEvents(Events):
    """What a page of ours listens to; as open as Flower's pages are."""


class ApiEvents(Events, Api):
    """GET /api/partitions/events: server-sent events: `overview` every two seconds, `unreachable` with `error` while Redis is away."""


class PageOverview(Common):
    """What a page of ours polls when events don't come through."""

    @authenticated
    async def get(self) -> None:
        text = await self.reading(self.live.watch.to_json)
        self.live.touch()
        self.set_header("Content-Type", JSON_TYPE)
        self.set_header("Cache-Control", "no-store")
        self.finish(msgspec.json.encode(text))
