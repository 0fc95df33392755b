"""`partitions top`: live on a terminal, a table in a pipe, lines of JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import redis

from tests.cli.conftest import Run
from tests.cli.declared import update
from tests.support.python_process import ForkedProcess, start_python
from tests.support.worker import ROOT

QUICK = ("--interval", "0.1")


@contextmanager
def command(url: str, directory: Path, *words: str, **options: Any) -> Iterator[ForkedProcess | subprocess.Popen[bytes]]:
    environment = {**os.environ, "REDIS_URL": url, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    line = ("celery", "-A", "tests.cli.declared_app", "partitions", *words)
    with start_python(*line, directory=directory, environment=environment, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def test_in_a_pipe_it_prints_one_table(run: Run, client: redis.Redis) -> None:
    client.lpush("partition.1", "a", "b")
    result = run("top", *QUICK)
    assert (result.exit_code, result.stderr) == (0, "")
    attention, memory, totals, _, heading, *rows = result.stdout.splitlines()
    assert attention.startswith("! no worker is running  2 messages wait")
    assert memory.startswith("! Redis, persistence")
    assert "4 partitions and the ingress" in totals and "waiting 2" in totals and "no owner 5" in totals
    assert heading.split()[:2] == ["queue", "owner"]
    assert [row.split()[0] for row in rows] == [*(f"partition.{number}" for number in range(4)), "partition"]
    assert run("top", *QUICK, "--sort", "backlog").stdout.splitlines()[5].startswith("partition.1 ")


def test_json_is_one_line_per_update_until_ctrl_c(redis_url: str, client: redis.Redis, tmp_path: Path) -> None:
    with command(redis_url, tmp_path, "top", "--json", *QUICK, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        client.lpush("partition.1", "a", "b")
        while not (delayed := json.loads(process.stdout.readline()))["totals"]["waiting"]:
            pass
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait() == 0
    assert first["totals"]["in_per_second"] is None
    assert delayed["totals"]["in_per_second"] > 0
    assert [row["partition"] for row in delayed["partitions"]] == ["0", "1", "2", "3", "ingress"]


def test_the_reader_may_close_the_pipe(redis_url: str, client: redis.Redis, tmp_path: Path) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with command(redis_url, tmp_path, "top", "--json", *QUICK, **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (0, b"")


def test_on_a_terminal_it_updates_takes_keys_and_ends_with_ctrl_c(redis_url: str, client: redis.Redis, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    screen = ""

    def read_until(pattern: str) -> None:
        nonlocal screen
        while not re.search(pattern, screen):
            screen += os.read(ours, 65536).decode(errors="replace")

    files = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with command(redis_url, tmp_path, "top", *QUICK, **files) as process:
        os.close(theirs)
        read_until("waiting 0")
        read_until("queue")
        read_until("done/s")
        client.lpush("partition.1", *map(str, range(77)))
        read_until("waiting 77")
        client.hset("{partition.1}:parked", "erin", '{"due": null, "attempt": 2, "error": "ValueError: \\u001b[31m", "since": 1}')
        os.write(ours, b"s\x1b[B\r")  # by backlog, the first row, open it
        read_until(r"queue +partition\.1")
        read_until(r"erin  hold  0  ValueError: \\x1b\[31m")
        os.write(ours, b"\x1bc")
        read_until("computation.*failed/s")
        process.send_signal(signal.SIGINT)
        read_until(re.escape("\x1b[?1049l"))  # the screen is restored
        assert process.wait() == 0
    os.close(ours)
    assert "Traceback" not in screen


def test_by_computation(run: Run, client: redis.Redis) -> None:
    client.hset("{partition}:computations", update.name, '{"processed": 7, "failed": 3, "retried": 2, "last_error": {"text": "Oh: \\u001b[31m", "at": 1}}')
    result = run("top", *QUICK, "--by", "computation")
    assert (result.exit_code, result.stderr) == (0, "")
    heading, row = result.stdout.splitlines()[-2:]
    assert heading.split()[:1] == ["computation"] and "retried" in heading
    assert row.startswith(update.name) and row.rstrip().endswith("Oh: \\x1b[31m")
