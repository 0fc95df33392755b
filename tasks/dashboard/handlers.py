"""What our handlers share: the installation, Redis in the executor, errors as people read them, and who is asking."""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import socket
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlparse

import msgspec
import redis
from flower.api import BaseApiHandler
from flower.views import BaseHandler
from tornado.web import HTTPError

from celery_partitions.admin.dead_letter_query import DeadLetterQuery
from celery_partitions.admin.state_json import plain_value
from celery_partitions.dashboard.live import Live, live_of, said
from celery_partitions.model.errors import KeyExtractionError, PartitionError
from celery_partitions.model.keys import key_text, normalize_key
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import installation_of
from celery_partitions.store.names import partitions_and_ingress

T = TypeVar("T")

JSON_TYPE = "application/json; charset=UTF-8"
NOT_INSTALLED = "The app that Flower was started with has no partitions: call celery_partitions.install(app) where it is made, or start Flower with -A celery_partitions"


class Common(BaseHandler):  # type: ignore[misc]
    """Pages and API alike."""

    @property
    def installation(self) -> Installation:
        """Raises 404 when Flower's app has no partitions."""
        app = self.application.capp
        app.finalize(auto=True)
        found = installation_of(app)
        if found is None:
            raise HTTPError(404, NOT_INSTALLED)
        return found

    @property
    def live(self) -> Live:
        return live_of(self.application, self.installation)

    async def blocking(self, function: Callable[..., T], *words: Any) -> T:
        """Call what waits for Redis, elsewhere. Raises 403 for what Flower's Redis user may not do, 503 when Redis is away."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.application.executor, functools.partial(function, *words))
        except redis.exceptions.NoPermissionError as error:
            raise HTTPError(403, f"Flower's Redis user may not do this: {error}") from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise HTTPError(503, said(error)) from error
        except (redis.RedisError, PartitionError) as error:
            raise HTTPError(409, said(error)) from error

    async def reading(self, function: Callable[..., T], *words: Any) -> T:
        """As `blocking`, for what changes nothing: tried again where the connection had been lost before."""
        try:
            return await self.blocking(function, *words)
        except HTTPError as error:
            if not isinstance(error.__cause__, redis.ConnectionError):
                raise
        return await self.blocking(function, *words)

    def word(self, name: str, default: str = "") -> str:
        """An argument of the query as it is: Flower's own are made HTML, and stripped."""
        values = self.request.query_arguments.get(name)
        return values[-1].decode("utf-8", "replace") if values else default

    def key_in_query(self) -> str | None:
        """`?key=…`, any bytes percent-encoded; with `base64=1` in base64. None without one; raises 400."""
        values = self.request.query_arguments.get("key")
        return None if not values else self.key_of(values[-1], self.word("base64") not in ("", "0", "false"))

    def key_of(self, raw: bytes, in_base64: bool) -> str:
        try:
            return normalize_key(base64.b64decode(raw, validate=True) if in_base64 else key_text(raw))
        except binascii.Error as error:
            raise HTTPError(400, "the key is not base64: %s", error) from error
        except KeyExtractionError as error:
            raise HTTPError(400, said(error)) from error

    def known_partition(self, partition: str) -> str:
        """A partition of this group, as it is spelled. Raises 404."""
        partitions = self.installation.settings.partitions
        if partition not in partitions_and_ingress(partitions):
            raise HTTPError(404, f"there is no partition {partition[:20]}; there are {partitions}, from 0, and ingress")
        return partition

    def dead_letters_asked(self) -> DeadLetterQuery:
        """Which dead letters the query is about."""
        partition = self.word("partition")
        return DeadLetterQuery(
            self.word("q"), self.known_partition(partition) if partition else "", self.word("reason"), self.word("fingerprint")
        )

    @property
    def why_not_acting(self) -> str:
        """Why this page can't act; empty when it can."""
        options = self.application.options
        if options.read_only:
            return "Flower is in read-only mode."
        if not (options.basic_auth or options.auth or self.unauthenticated_api):
            return "Flower has no login, so it acts for nobody: start it with --basic-auth=user:password."
        return ""

    @property
    def who(self) -> str:
        """For the audit: the Flower user, as it signed in."""
        options = self.application.options
        if options.auth and isinstance(self.current_user, str):
            return self.current_user
        if options.basic_auth:
            words = self.request.headers.get("Authorization", "").split()
            return base64.b64decode(words[-1]).decode().partition(":")[0] if words else ""
        return f"flower@{socket.gethostname()}"


class Api(Common, BaseApiHandler):  # type: ignore[misc]
    """The JSON API. As Flower's own it answers 401 to everybody while Flower has no login, unless FLOWER_UNAUTHENTICATED_API is set."""

    def answer(self, value: Any) -> None:
        """JSON; what JSON has no form for by its fields."""
        self.set_header("Content-Type", JSON_TYPE)
        self.set_header("Cache-Control", "no-store")
        self.finish(value if isinstance(value, bytes) else msgspec.json.encode(value, enc_hook=plain_value))

    def write_error(self, status_code: int, **more: Any) -> None:
        """`{"error": …}`. A browser that knows the login sends it when it is asked for it."""
        error = (more.get("exc_info") or (None, None))[1]
        text = error.get_message() if isinstance(error, HTTPError) else ""
        if status_code == 401 and self.application.options.basic_auth:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        self.answer({"error": text or self._reason})


class Action(Api):
    """Something is changed: POST only, refused in read-only mode, and asked for by no other site's page."""

    def check_xsrf_cookie(self) -> None:
        """As Flower's; and no page of another site acts where Flower has no login either."""
        site = self.request.headers.get("Sec-Fetch-Site")
        origin = self.request.headers.get("Origin")
        foreign = (
            site not in ("same-origin", "none")
            if site
            else bool(origin) and urlparse(origin).netloc != self.request.host
        )
        if foreign:
            raise HTTPError(403, "Cross-site request forbidden")
        super().check_xsrf_cookie()

    def check_writable(self) -> None:
        if self.application.options.read_only:
            raise HTTPError(403, "Read only mode is enabled")

    async def acting(self, function: Callable[..., T], *words: Any) -> T:
        """As `blocking`; what is looked at next is how things stand after it."""
        try:
            return await self.blocking(function, *words)
        finally:
            self.live.watch.look_anew()

    def asked(self, form: type[T]) -> T:
        """The body, JSON of a form. Raises 400 that says what does not fit."""
        try:
            return msgspec.json.decode(self.request.body or b"{}", type=form)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HTTPError(400, f"{error}") from error
