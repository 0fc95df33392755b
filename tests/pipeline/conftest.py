"""Workers that run the pipelines of `tests.support.applications.pipelines`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celery_partitions.producer.bulk import send_many
from celery_partitions.producer.pipelines import SourcePipeline
from celery_partitions.runtime.registry import declared
from tests.fundamentals.live import LiveGroup
from tests.support.applications import pipelines


class LivePipelines(LiveGroup):
    """A group whose workers run those pipelines."""

    def start_worker(self, *arguments: str, module: str = pipelines.__name__, **env: object) -> Any:
        return super().start_worker(*arguments, module=module, **env)

    def feed(self, source: SourcePipeline, messages: Iterable[object]) -> int:
        return send_many(self.installation, declared[source.name], messages, progress=False)


@pytest.fixture
def make_pipelines(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., LivePipelines]]:
    with ExitStack() as stack:

        def make(**env: object) -> LivePipelines:
            live = stack.enter_context(
                LivePipelines(
                    redis_url,
                    tmp_path,
                    **{"PARTITIONS_LEASE_SECONDS": 2, "PARTITIONS_RETRY_BACKOFF_SECONDS": 0.2, **env},
                )
            )
            stack.callback(live.print_logs)
            return live

        yield make
