"""The live overview: server-sent events, or polling for a page that receives none.

The first event has the last five minutes of every row. Later events have only the fields that changed, and the page extends its lines itself,
so that events stay small for any number of partitions. Every 30 seconds all rows are sent. While Redis is not reachable, `unreachable` events give the reason; `overview`
events resume when it is back.
"""

from __future__ import annotations

import asyncio

import msgspec
from tornado.iostream import StreamClosedError
from tornado.web import authenticated

from celery_partitions.dashboard.handlers import Api, Common
from celery_partitions.dashboard.live import FAILURES, describe


class Events(Common):
    """One client of the event stream."""

    _waiting: asyncio.Task[None] | None = None

    @authenticated
    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")  # otherwise nginx buffers events
        self._waiting = asyncio.ensure_future(self._stream())
        try:
            await self._waiting
        except (StreamClosedError, asyncio.CancelledError):
            return

    async def _stream(self) -> None:
        live = self.live
        self.write("retry: 2000\n\n")
        has_history, attention = False, None
        while True:
            if has_history:
                overview, error = await live.next()
            else:
                try:
                    overview, error, has_history = await live.whole(), "", True
                except FAILURES as failure:
                    overview, error = None, describe(failure)
            self._write(overview, error)
            if not error and live.attention is not attention:
                attention = live.attention
                self.write(b"event: attention\ndata: " + (attention or b"[]") + b"\n\n")
            await self.flush()
            if not has_history:
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
    """The event stream for our pages. It needs the same login as Flower's pages."""


class ApiEvents(Events, Api):
    """GET /api/partitions/events: server-sent events: `overview` every two seconds (first all rows, then of each row `partition`, ages and what changed), `attention` when it has changed, `unreachable` with `error` while Redis is away."""


class PageOverview(Common):
    """Our pages poll this if they receive no events."""

    @authenticated
    async def get(self) -> None:
        found = await self.reading(self.live.watch.with_attention)
        self.live.touch()
        self.answer(found)
