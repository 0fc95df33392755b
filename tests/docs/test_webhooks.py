"""The webhook example of the guide, unchanged, with a real HTTP server: a broken endpoint waits in order while others go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.docs.pages import blocks
from tests.support.wait import wait_until
from tests.support.worker import ROOT, WorkerProcess

ENDPOINTS = 12
EVENTS = 4


class Receiver(ThreadingHTTPServer):
    """Customers' endpoints: one path each. Those in `broken` answer 503."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Endpoint)
        self.broken: set[str] = set()
        #: (path, body, idempotency key, whether it was accepted), in the order of arrival.
        self.calls: list[tuple[str, str, str, bool]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def accepted(self, path: str) -> list[str]:
        return [body for where, body, _, accepted in self.calls if where == path and accepted]


class Endpoint(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        accepted = self.path not in self.server.broken
        self.server.calls.append((self.path, body, self.headers["Idempotency-Key"], accepted))
        self.send_response(200 if accepted else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server
        server.shutdown()


def test_a_broken_endpoint_waits_in_order_while_others_go_on(
    redis_url: str, receiver: Receiver, tmp_path: Path, start_worker: Callable[..., WorkerProcess]
) -> None:
    (tmp_path / "webhooks.py").write_text(next(one.text for one in blocks(ROOT / "tasks/model/EXAMPLES.md") if one.file == "webhooks.py"))

    def partitions(*words: str) -> str:
        """Run a command as the guide shows it. Returns what it prints."""
        command = [sys.executable, "-m", "celery", "-A", "webhooks", "partitions", *words]
        env = {**os.environ, "REDIS_URL": redis_url, "PARTITIONS": "2"}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True).stdout

    receiver.broken.add("/broken")
    paths = ["/broken", *(f"/customer-{number}" for number in range(ENDPOINTS))]
    wanted = [f"event {number}" for number in range(EVENTS)]
    events = [{"endpoint": receiver.url(path), "body": body} for body in wanted for path in paths]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    partitions("send", "deliver webhook", "events.jsonl")
    start_worker("webhooks", PARTITIONS=2).wait_ready()

    wait_until(lambda: all(receiver.accepted(path) == wanted for path in paths[1:]))
    parked = wait_until(lambda: json.loads(partitions("parked", "list", "--json")))
    assert [(one["key"], one["waiting"]) for one in parked] == [(receiver.url("/broken"), EVENTS)]

    receiver.broken.clear()
    partitions("parked", "retry", receiver.url("/broken"))  # unless the worker has just done it by itself
    wait_until(lambda: receiver.accepted("/broken") == wanted)
    first = {key for path, body, key, _ in receiver.calls if path == "/broken" and body == wanted[0]}
    assert len(first) == 1, "the repeated call had another idempotency key"
    keys = [key for _, _, key, accepted in receiver.calls if accepted]
    assert len(set(keys)) == len(keys) == len(events)
