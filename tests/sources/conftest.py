"""Runs sources and sinks of `tests.support.applications.ends` as processes, in a group per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celery_partitions.producer.bulk import send_many
from celery_partitions.runtime.registry import declared
from tests.fundamentals.live import LiveGroup
from tests.support.applications import ends
from tests.support.ends import EndProcess
from tests.support.server import free_port


class LiveEnds(LiveGroup):
    """A group whose workers, sources and sinks run those pipelines."""

    def __init__(self, url: str, directory: Path, **env: object) -> None:
        self.sink_port = free_port()
        super().__init__(url, directory, **{"SINK_PORT": self.sink_port, "PARTITIONS_LEASE_SECONDS": 1, "PARTITIONS_RETRY_BACKOFF_SECONDS": 0.2, **env})
        self.directory = directory
        self.ends: list[EndProcess] = []

    def start_worker(self, *arguments: str, module: str = ends.__name__, **env: object) -> Any:
        return super().start_worker(*arguments, module=module, **env)

    def start_end(self, kind: str, name: str, **env: object) -> EndProcess:
        """`partitions source NAME` or `partitions sink NAME`."""
        text = {**self.env, **{key: str(value) for key, value in env.items()}}
        end = self._stack.enter_context(EndProcess(kind, name, self.directory, text))
        self.ends.append(end)
        return end

    def start_listening(self, **env: object) -> tuple[EndProcess, int]:
        """The source `frames`, and its port."""
        source = self.start_end("source", "frames", **env)
        return source, int(source.wait_for("listening on").rpartition(":")[2])

    def send_plain(self, messages: list[dict[str, Any]]) -> None:
        send_many(self.installation, declared[ends.sent.name], messages, progress=False)

    def print_logs(self) -> None:
        super().print_logs()
        for end in self.ends:
            print(f"--- {end.name}\n{end.log()[-4000:]}")


@pytest.fixture
def make_ends(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., LiveEnds]]:
    with ExitStack() as stack:

        def make(url: str = redis_url, **env: object) -> LiveEnds:
            live = stack.enter_context(LiveEnds(url, tmp_path, **env))
            stack.callback(live.print_logs)
            return live

        yield make
