"""Flower is reached from this machine only, unless it has a login; and it says what to set."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.server import free_port
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]

Start = Callable[..., tuple[subprocess.Popen[str], int]]


@pytest.fixture
def start_flower(redis_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start Flower as the Procfile does, with more words and environment; returns the process and its port."""
    with ExitStack() as stack:

        def start(*words: str, **environment: str) -> tuple[subprocess.Popen[str], int]:
            port = free_port()
            flower = [sys.executable, "-m", "celery", "-A", "tasks.stocks", "flower", "--conf=config/flowerconfig.py"]
            process = subprocess.Popen(
                [*flower, f"--port={port}", f"--db={tmp_path / 'flower'}", *words],
                cwd=ROOT,
                env={**os.environ, "REDIS_URL": redis_url, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process, port

        yield start


def answer(host: str, port: int, path: str, login: str | None = None) -> int:
    """The status of a page, 0 when nobody listens there."""
    request = urllib.request.Request(f"http://{host}:{port}{path}")
    if login is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def wait_for(process: subprocess.Popen[str], port: int) -> None:
    wait_until(lambda: process.poll() is not None or answer("127.0.0.1", port, "/healthcheck") == 200, timeout=40)
    assert process.poll() is None


@pytest.mark.parametrize("words", [(), ("--address=127.0.0.1",)])
def test_without_a_login_only_this_machine_reaches_it(start_flower: Start, words: tuple[str, ...]) -> None:
    process, port = start_flower(*words)
    wait_for(process, port)
    # Another address of this machine, where a server of all networks would answer.
    assert answer("127.0.0.2", port, "/healthcheck") == 0


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (("--address=0.0.0.0",), {}),
        (("--address=",), {}),
        (("-address=::",), {}),
        (("--address=flower.example.com",), {}),
        ((), {"FLOWER_ADDRESS": "0.0.0.0"}),
    ],
)
def test_elsewhere_it_does_not_start_without_one_and_says_what_to_set(
    start_flower: Start, words: tuple[str, ...], environment: dict[str, str]
) -> None:
    process, port = start_flower(*words, **environment)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=40)
    assert process.returncode == 1
    assert process.stdout is not None
    said = process.stdout.read()
    assert "Flower does not start" in said and "Set FLOWER_BASIC_AUTH=user:password" in said
    assert "Traceback" not in said
    assert answer("127.0.0.1", port, "/healthcheck") == 0


def test_with_a_login_it_listens_where_it_is_told_and_asks_for_it(start_flower: Start) -> None:
    process, port = start_flower("--address=0.0.0.0", FLOWER_BASIC_AUTH="me:secret")
    wait_for(process, port)
    assert answer("127.0.0.2", port, "/workers") == 401
    assert answer("127.0.0.2", port, "/workers", "me:wrong") == 401
    assert answer("127.0.0.2", port, "/workers", "me:secret") == 200
    assert answer("127.0.0.2", port, "/api/workers") == 401
