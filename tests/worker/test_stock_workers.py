"""What `install` changes in an app. A worker that serves no partitions is unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from celery import Celery

from celery_partitions import install
from celery_partitions.runtime.registry import installation_of, remove_installation
from celery_partitions_config.settings import Settings
from tests.support.apps import close_app
from tests.support.worker import ROOT, WorkerProcess

QUIET = ("-Q", "celery", "--without-gossip", "--without-mingle")
#: A worker that serves partitions needs the solo pool. Other workers may have any.
POOLS = (("-P", "solo"), ("-P", "threads", "-c", "2"), ("-P", "prefork", "-c", "1"))


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool[1])
def test_a_worker_that_serves_no_partitions_is_unchanged(
    start_worker: Callable[..., WorkerProcess], redis_url: str, pool: tuple[str, ...]
) -> None:
    described: list[dict[str, Any]] = []
    outside = Celery("outside", broker=redis_url, backend=redis_url, set_as_current=False)
    with ExitStack() as stack:
        stack.callback(close_app, outside)
        for installed in (0, 1):
            worker = start_worker("tests.worker.stock", *QUIET, *pool, INSTALLED=installed, PARTITIONS_LOG_FORMAT="json").wait_ready()
            described.append(outside.send_task("describe worker").get(timeout=60))
            worker.terminate()
            worker.wait(timeout=60)
    before, after = described
    assert after == before


def test_install_changes_only_the_routes_in_the_apps_configuration() -> None:
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    before = dict(app.conf.table(with_defaults=True))
    install(app, Settings(lease_seconds=7))
    try:
        after = dict(app.conf.table(with_defaults=True))
        found = installation_of(app)
        assert found is not None
        assert after.pop("task_routes") == [found.route]
        before.pop("task_routes")
        assert after == before
        assert "amqp" not in vars(app)
    finally:
        if (found := installation_of(app)) is not None:
            remove_installation(found)


def test_install_does_not_load_the_configuration() -> None:
    code = (
        "import sys; from celery import Celery; from celery_partitions import install\n"
        "app = Celery('shop', set_as_current=False); app.config_from_object('no.such.module')\n"
        "install(app); assert not app.configured"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
