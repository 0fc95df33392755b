"""The worker process can be started, observed and signalled, and is gone at the end. With a plain Celery application."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.worker import WorkerProcess

PLAIN_APPLICATION = """
import os
import celery
app = celery.Celery("plain", broker=os.environ["REDIS_URL"])
app.conf.worker_pool = "solo"
"""


@pytest.fixture
def worker(tmp_path: Path, redis_url: str) -> Iterator[WorkerProcess]:
    (tmp_path / "application.py").write_text(PLAIN_APPLICATION)
    env = {"REDIS_URL": redis_url}
    with WorkerProcess(
        "application", "-Q", "some", directory=tmp_path, env=env, python_path=[tmp_path]
    ) as worker:
        yield worker.wait_ready()
    assert not worker.running


def test_a_stopped_worker_does_nothing_until_it_continues(worker: WorkerProcess) -> None:
    worker.stop_process()
    worker.terminate()
    with pytest.raises(AssertionError, match="still runs"):
        worker.wait(timeout=0.2)
    worker.continue_process()
    assert worker.wait() == 0


def test_a_stopped_worker_is_killed_at_the_end(worker: WorkerProcess) -> None:
    worker.stop_process()
