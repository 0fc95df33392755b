"""What our handlers share: the installation, Redis calls in the executor, readable errors, and the user's name."""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import math
import socket
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlparse

import msgspec
import redis
from flower.api import BaseApiHandler
from flower.views import BaseHandler
from tornado.web import HTTPError, authenticated

from celery_partitions.admin.dead_letter_query import DeadLetterQuery
from celery_partitions.admin.state_json import plain_value
from celery_partitions.dashboard.lists import of_sink
from celery_partitions.dashboard.live import Live, describe, live_of
from celery_partitions.model.errors import KeyExtractionError, PartitionError, SetupError
from celery_partitions.model.keys import key_text, normalize_key
from celery_partitions.model.messages import MAX_SECONDS
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import installation_of
from celery_partitions.store.names import partitions_and_ingress

T = TypeVar("T")

JSON_TYPE = "application/json; charset=UTF-8"
NOT_INSTALLED = "Flower's app has no partitions. Call celery_partitions.install(app) where the app is created, or start Flower with -A celery_partitions"


class Common(BaseHandler):  # type: ignore[misc]
    """Base of all our handlers, pages and API."""

    @property
    def installation(self) -> Installation:
        """The installation of Flower's app, or with `?sink=NAME` that of the sink's own group. Raises 404 if there is none."""
        app = self.application.capp
        app.finalize(auto=True)
        found = installation_of(app)
        if found is None:
            raise HTTPError(404, NOT_INSTALLED)
        try:
            return of_sink(found, self.word("sink")) if self.word("sink") else found
        except SetupError as error:
            raise HTTPError(404, describe(error)) from error

    @property
    def live(self) -> Live:
        return live_of(self.application, self.installation)

    def answer(self, value: Any) -> None:
        """Finish with JSON. A value that JSON cannot represent is shown by its fields."""
        self.set_header("Content-Type", JSON_TYPE)
        self.set_header("Cache-Control", "no-store")
        self.finish(msgspec.json.encode(value, enc_hook=plain_value))

    async def blocking(self, function: Callable[..., T], *words: Any) -> T:
        """Call a blocking function in the executor. Raises 403 if Flower's Redis user lacks a permission, 503 if Redis is not reachable."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.application.executor, functools.partial(function, *words))
        except redis.exceptions.NoPermissionError as error:
            raise HTTPError(403, f"Flower's Redis user may not do this: {error}") from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise HTTPError(503, describe(error)) from error
        except (redis.RedisError, PartitionError) as error:
            raise HTTPError(409, describe(error)) from error

    async def reading(self, function: Callable[..., T], *words: Any) -> T:
        """Like `blocking`, for functions that only read: calls again once if the connection was lost."""
        try:
            return await self.blocking(function, *words)
        except HTTPError as error:
            if not isinstance(error.__cause__, redis.ConnectionError):
                raise
        return await self.blocking(function, *words)

    def word(self, name: str, default: str = "") -> str:
        """A query argument, unchanged. Flower's own method escapes HTML and strips spaces."""
        values = self.request.query_arguments.get(name)
        return values[-1].decode("utf-8", "replace") if values else default

    def time(self, name: str) -> float:
        """A query argument that is a time: seconds since the epoch. 0 if it is missing. Raises 400."""
        word = self.word(name)
        try:
            at = float(word or 0)
        except ValueError:
            at = math.nan
        if not 0 <= at < MAX_SECONDS:
            raise HTTPError(400, f"{name} must be a time in seconds since the epoch")
        return at

    def key_in_query(self) -> str | None:
        """The key of `?key=…`: any bytes, percent-encoded, or base64 with `base64=1`. None if it is missing. Raises 400."""
        values = self.request.query_arguments.get("key")
        return None if not values else self.key_of(values[-1], self.word("base64") not in ("", "0", "false"))

    def key_of(self, raw: bytes, in_base64: bool) -> str:
        try:
            return normalize_key(base64.b64decode(raw, validate=True) if in_base64 else key_text(raw))
        except binascii.Error as error:
            raise HTTPError(400, "the key is not base64: %s", error) from error
        except KeyExtractionError as error:
            raise HTTPError(400, describe(error)) from error

    def known_partition(self, partition: str) -> str:
        """`partition`, if this group has it. Raises 404 if not."""
        partitions = self.installation.group.topology.served
        if partition not in partitions_and_ingress(partitions):
            raise HTTPError(404, f"there is no partition {partition[:20]}; expected 0 to {partitions - 1}, or ingress")
        return partition

    def dead_letter_query(self) -> DeadLetterQuery:
        """The selection of dead letters in the query."""
        partition = self.word("partition")
        after, before = (self.time(name) for name in ("after", "before"))
        partition = self.known_partition(partition) if partition else ""
        return DeadLetterQuery(
            self.word("q"), partition, self.word("reason"), self.word("fingerprint"), after, before, self.word("task")
        )

    @property
    def why_not_acting(self) -> str:
        """Why actions are not allowed; empty if they are."""
        options = self.application.options
        if options.read_only:
            return "Flower is in read-only mode."
        if not (options.basic_auth or options.auth or self.unauthenticated_api):
            return "Flower has no login. To allow actions, start it with --basic-auth=user:password."
        return ""

    @property
    def who(self) -> str:
        """The signed-in Flower user, for the audit."""
        options = self.application.options
        if options.auth and isinstance(self.current_user, str):
            return self.current_user
        if options.basic_auth:
            words = self.request.headers.get("Authorization", "").split()
            return base64.b64decode(words[-1]).decode().partition(":")[0] if words else ""
        return f"flower@{socket.gethostname()}"


class Api(Common, BaseApiHandler):  # type: ignore[misc]
    """Base of the JSON API. Like Flower's own API it answers 401 if Flower has no login, unless FLOWER_UNAUTHENTICATED_API is set."""

    def write_error(self, status_code: int, **more: Any) -> None:
        """Answer `{"error": …}`. A 401 asks for the login, so that a browser that knows it sends it."""
        error = (more.get("exc_info") or (None, None))[1]
        text = error.get_message() if isinstance(error, HTTPError) else ""
        if status_code == 401 and self.application.options.basic_auth:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        self.answer({"error": text or self._reason})


class Action(Api):
    """Base of the actions: POST only, refused in read-only mode and for pages of other sites. The answer is what `act` returns."""

    #: The form of the body.
    form: type[msgspec.Struct] = msgspec.Struct
    #: Called in the executor with the body, and with the words of the address.
    act: Callable[..., dict[str, Any]]

    @authenticated
    async def post(self, *words: str) -> None:
        if self.application.options.read_only:
            raise HTTPError(403, "Read only mode is enabled")
        self.answer(await self.acting(self.act, self.body(self.form), *words))

    def check_xsrf_cookie(self) -> None:
        """Flower's check, and additionally refuse pages of other sites even if Flower has no login."""
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

    async def acting(self, function: Callable[..., T], *words: Any) -> T:
        """Like `blocking`, for changes: the next read of the overview shows the result."""
        try:
            return await self.blocking(function, *words)
        finally:
            self.live.watch.invalidate()

    def body(self, form: type[T]) -> T:
        """The JSON body as a `form`. Raises 400 that names the field that is not valid."""
        try:
            return msgspec.json.decode(self.request.body or b"{}", type=form)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HTTPError(400, f"{error}") from error
