"""Flower's application with our pages, in this process: a loop in a thread, without events or inspections of workers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Self

from celery import Celery
from flower.app import Flower
from flower.options import default_options
from flower.urls import settings as flower_settings
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from celery_partitions.dashboard import add_to_flower
from tests.support.flower import ask

LOGIN = "me:secret"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Served:
    """`options` are Flower's. `login` is sent with each request that has no login of its own (None: no login)."""

    def __init__(self, app: Celery, *, login: str | None = LOGIN, **options: Any) -> None:
        add_to_flower()
        chosen = {**default_options.as_dict(), "basic_auth": [LOGIN], **options}
        self.login = login
        self._options = SimpleNamespace(**chosen)
        self._app = app
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        settings = {**flower_settings, "cookie_secret": "of the tests"}
        if self._options.url_prefix:
            settings["login_url"] = f"/{self._options.url_prefix}/login"
        self.flower = Flower(capp=self._app, options=self._options, io_loop=IOLoop.current(), **settings)
        server = HTTPServer(self.flower)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        self.base = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        self._started.set()
        await self._ended.wait()
        server.stop()
        await server.close_all_connections()
        self.flower.executor.shutdown()

    def ask(
        self, path: str, *, body: object = None, login: str | None = "", method: str | None = None, **headers: str
    ) -> Answer:
        """One request. A body (JSON) makes it a POST."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        login = self.login if login == "" else login
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Answer(*ask(self.base + path, method, login=login, headers=named, content=data))

    def post(self, path: str, body: object = None, **more: Any) -> Answer:
        return self.ask(path, body={} if body is None else body, **more)
