"""Flower as a child process, started as the Procfile starts it."""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.child import ChildProcess
from tests.support.python_process import start_python
from tests.support.server import free_port
from tests.support.wait import wait_until
from tests.support.worker import ROOT

#: Longer than importing Celery and Flower on a busy machine.
READY_SECONDS = 60.0


class FlowerProcess(ChildProcess):
    """`celery -A module partitions flower WORDS`, or another `command`, with `env` added to the environment.

    It starts when the object is created. As a context manager it is killed at the end.
    """

    def __init__(self, module: str, *words: str, directory: Path, env: dict[str, str], command: Sequence[str] = ("partitions", "flower")) -> None:
        self.port = free_port()
        log_path = directory / f"flower-{self.port}.log"
        with log_path.open("wb") as log:
            process = start_python(
                *("celery", "-A", module, *command, f"--port={self.port}", f"--db={directory / 'flower'}", *words),
                directory=ROOT,
                environment={**os.environ, **env},
                stdout=log,
                stderr=log,
            )
        super().__init__("Flower", process, log_path)

    def wait_ready(self, healthcheck: str = "/healthcheck") -> Self:
        """Return once the health check on 127.0.0.1 succeeds. With a `url_prefix`, pass the prefixed path."""
        wait_until(lambda: not self.running or self.get(healthcheck)[0] == 200, READY_SECONDS)
        assert self.running, self.log()
        return self

    def get(self, path: str, *, host: str = "127.0.0.1", login: str | None = None) -> tuple[int, bytes]:
        """The status and content of a page. Status 0: the connection was refused."""
        status, _, content = self.ask("GET", path, host=host, login=login, follow=True)
        return status, content

    def ask(self, method: str, path: str, *, host: str = "127.0.0.1", **more: Any) -> tuple[int, Mapping[str, str], bytes]:
        """As `ask`. Status 0: the connection was refused."""
        try:
            return ask(f"http://{host}:{self.port}{path}", method, **more)
        except OSError:
            return 0, {}, b""


def ask(
    url: str,
    method: str | None = None,
    *,
    login: str | None = None,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    follow: bool = False,
) -> tuple[int, Mapping[str, str], bytes]:
    """The status, headers and content of a response. `method`: None: POST if there is content.

    Without `follow` a redirect is returned as it is. For an event stream, the content is not read.
    """
    request = urllib.request.Request(url, data=content, headers=dict(headers or {}), method=method)
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    opener = urllib.request.build_opener() if follow else urllib.request.build_opener(_NoRedirect())
    try:
        with opener.open(request, timeout=60) as reply:
            endless = reply.headers.get_content_type() == "text/event-stream"
            return int(reply.status), reply.headers, b"" if endless else reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None
