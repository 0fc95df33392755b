"""Without a signing key a worker starts only if Redis is on this machine, or if a setting allows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from celery_partitions.model.errors import SetupError
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import declared
from celery_partitions.worker.signing import check_signing
from celery_partitions_config.resolution import from_environment
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.worker import WorkerProcess

#: Addresses for documentation, which never answer (RFC 5737).
ELSEWHERE = "redis://192.0.2.1:6379/0"
SENTINELS = "sentinel://127.0.0.1:26379;sentinel://192.0.2.1:26379"


def check(url: str, **settings: str) -> str | None:
    app = Celery("asked", set_as_current=False)
    given = from_environment({"REDIS_URL": url, **settings})
    return check_signing(Installation(app, given, declared, by_default=False))


@pytest.mark.parametrize("url", ["redis://127.0.0.1:7000/0", "redis://localhost", "redis://[::1]:6379", "unix:///run/redis.sock"])
def test_on_this_machine_a_worker_without_a_key_warns(url: str) -> None:
    warning = check(url) or ""
    assert "states are not signed" in warning and "a worker with a key does not read unsigned ones" in warning
    assert check(url, PARTITIONS_UNSIGNED_STATES="1") is None
    assert check(url, PARTITIONS_STATE_SIGNING_KEY="k" * 32) is None


@pytest.mark.parametrize("url", [ELSEWHERE, "rediss://redis.example:6379", "redis://redis", SENTINELS])
def test_elsewhere_it_refuses_unless_there_is_a_key_or_a_setting_allows_it(url: str) -> None:
    with pytest.raises(SetupError, match="PARTITIONS_UNSIGNED_STATES=1"):
        check(url)
    assert check(url, PARTITIONS_UNSIGNED_STATES="1") is None
    assert check(url, PARTITIONS_STATE_SIGNING_KEY="k" * 32) is None


def test_the_refusal_has_a_new_key_that_can_be_pasted() -> None:
    keys = set()
    for _ in range(2):
        with pytest.raises(SetupError) as refused:
            check(ELSEWHERE)
        found = re.search(r"^ +PARTITIONS_STATE_SIGNING_KEY=(\w+)$", str(refused.value), re.MULTILINE)
        assert found
        keys.add(found[1])
        assert check(ELSEWHERE, PARTITIONS_STATE_SIGNING_KEY=found[1]) is None
    assert len(keys) == 2


@pytest.mark.server
def test_a_worker_refuses_before_it_connects_to_the_server(tmp_path: Path) -> None:
    with WorkerProcess("tests.fundamentals.application", directory=tmp_path, env={"REDIS_URL": ELSEWHERE}) as worker:
        assert worker.wait(timeout=60) == 1
        assert "PARTITIONS_STATE_SIGNING_KEY is not set, and Redis is not on this machine" in worker.log()
        assert "Traceback" not in worker.log()


def test_a_worker_on_loopback_warns_once_and_works(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    live = make_live(redis_url, PARTITIONS=1)
    worker = live.start_workers(1)[0]
    live.send(record, [Step("key", 1)])
    live.wait_drained()
    assert worker.log().count("states are not signed") == 1
