"""The worker process can be started, observed and signalled, and is gone at the end. With a plain Celery application."""

import signal
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


def test_arguments_and_a_clean_end(worker: WorkerProcess) -> None:
    assert "some" in worker.log()
    worker.terminate()
    assert worker.wait() == 0


def test_killed(worker: WorkerProcess) -> None:
    worker.kill()
    assert worker.wait() == -signal.SIGKILL


def test_a_stopped_worker_does_nothing_until_it_continues(worker: WorkerProcess) -> None:
    worker.stop_process()
    worker.terminate()
    with pytest.raises(AssertionError, match="still runs"):
        worker.wait(timeout=0.2)
    worker.continue_process()
    assert worker.wait() == 0


def test_a_stopped_worker_is_killed_at_the_end(worker: WorkerProcess) -> None:
    worker.stop_process()


def test_an_interrupt_ends_the_worker(worker: WorkerProcess) -> None:
    worker.interrupt()
    assert worker.wait() == 1  # Celery's exit code for a warm shutdown by SIGINT
    assert "Warm shutdown" in worker.log()


def test_the_error_has_the_log_of_a_worker_that_does_not_start(tmp_path: Path) -> None:
    with (
        WorkerProcess("no_such_application", directory=tmp_path) as worker,
        pytest.raises(AssertionError, match="no_such_application"),
    ):
        worker.wait_ready()
