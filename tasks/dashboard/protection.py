"""Security headers for every page of Flower, and a check of the Host header if Flower has no login.

Without a login, anyone who can reach Flower can read it, so it listens on loopback. A page of another site, open in a browser on the
same machine, could still reach it by DNS rebinding: the site's name resolves to 127.0.0.1 for a moment. Such a request has the other
site's name in its Host header, so only known names are answered. The headers also forbid showing Flower in a frame.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

from flower.views.monitor import Healthcheck
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.routing import URLSpec
from tornado.web import GZipContentEncoding, OutputTransform, RequestHandler

from celery_partitions.model.escaping import escape
from celery_partitions.runtime.registry import installation_of

#: For our pages: no inline scripts or styles, and nothing from other hosts.
STRICT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: For Flower's own pages, one of which has an inline script.
FLOWERS_POLICY = "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"

_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # The address of a page may contain a key.
    "Referrer-Policy": "same-origin",
}


class SafeHeaders(OutputTransform):
    """Adds the headers to every response of Flower."""

    def __init__(self, request: HTTPServerRequest) -> None:
        pass

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        for name, value in _HEADERS.items():
            headers[name] = value
        if "Content-Security-Policy" not in headers:
            headers["Content-Security-Policy"] = FLOWERS_POLICY
        return status_code, headers, chunk


class Compressed(GZipContentEncoding):
    """Compresses our own pages, API answers and event streams, if the client accepts it."""

    def __init__(self, request: HTTPServerRequest) -> None:
        super().__init__(request)
        self._gzipping = self._gzipping and "/partition" in request.path


def is_known_host(host: str, known: tuple[str, ...]) -> bool:
    """Whether a Host header names the loopback address or one of `known` (names without a port)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback or name in known
    except ValueError:
        name = name.rstrip(".")
        return name == "localhost" or name.endswith(".localhost") or name in known


class _Guarded(RequestHandler):
    """Checks the Host header before the handler runs."""

    def prepare(self) -> Awaitable[None] | None:
        if self._is_answered():
            return super().prepare()
        host = escape(self.request.host)[:200]
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(
            f"Request refused: Flower has no login, and it does not know the host name {host}. A page of another site "
            "could have sent this request. Open http://127.0.0.1 with Flower's port instead, start Flower with a login "
            "(FLOWER_BASIC_AUTH=user:password), or, if the name is yours, set PARTITIONS_DASHBOARD_HOSTS to it.\n"
        )
        return None

    def _is_answered(self) -> bool:
        options: Any = self.application.options  # type: ignore[attr-defined]
        if options.basic_auth or options.auth or options.unix_socket:
            return True  # no web page can reach a socket, and a proxy in front of it has its own names
        installation = installation_of(self.application.capp)  # type: ignore[attr-defined]
        hosts = () if installation is None else installation.settings.dashboard_hosts
        return is_known_host(self.request.host, (*hosts, options.address.lower()) if options.address else hosts)


def guarded(handler: Any) -> Any:
    """An entry of Flower's list of handlers, with the check of the Host header added."""
    cls: type[RequestHandler] = handler.handler_class if isinstance(handler, URLSpec) else handler[1]
    if issubclass(cls, (_Guarded, Healthcheck)):
        return handler
    made = type(cls.__name__, (_Guarded, cls), {})
    if isinstance(handler, URLSpec):
        return URLSpec(handler.regex.pattern, made, handler.kwargs, handler.name)
    return (handler[0], made, *handler[2:])
