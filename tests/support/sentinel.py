"""A sentinel that watches a master named `prices`, as a child process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.server import RedisServer, free_port, server_binary
from tests.support.wait import wait_until


@contextmanager
def running_sentinel(master: RedisServer, folder: Path, *options: str, until: tuple[str, ...]) -> Iterator[tuple[redis.Redis, int]]:
    """A client and the port, once the sentinel answers the command `until`. Skips the test if the server binary has no sentinel mode."""
    port = free_port()
    configuration = folder / "sentinel.conf"
    lines = [f"port {port}", "bind 127.0.0.1", f"dir {folder}", f"sentinel monitor prices {master.host} {master.port} 1"]
    configuration.write_text("\n".join([*lines, *(f"sentinel {option}" for option in options), ""]))
    command = [server_binary(), str(configuration), "--sentinel"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process, redis.Redis(port=port) as client:
        try:

            def answers() -> bool:
                try:
                    return bool(client.execute_command("SENTINEL", *until, "prices"))
                except (redis.ConnectionError, redis.ResponseError):
                    if process.poll() is not None:
                        pytest.skip("this server's binary is no sentinel")
                    return False

            wait_until(answers, message=f"the sentinel does not answer {until}")
            yield client, port
        finally:
            process.kill()
