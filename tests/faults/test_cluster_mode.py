"""Workers, producers and `doctor` refuse a server in cluster mode, with all slots or some, and say what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from celery_partitions import SetupError, install
from celery_partitions.admin.doctor import examine
from celery_partitions.runtime.registry import installation_of, remove_installation
from celery_partitions_config.settings import Settings
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.apps import close_app
from tests.support.server import RedisServer, free_port
from tests.support.wait import wait_until

SLOTS = {"all": ("0", "16383"), "few": ("0", "10"), "none": None}


def cluster(server_factory: Callable[..., RedisServer], slots: str) -> str:
    """The URL of a node that serves these slots."""
    # The default port of the cluster's bus, 10,000 higher, may be in use.
    server = server_factory(config={"cluster-enabled": "yes", "cluster-port": str(free_port()), "cluster-require-full-coverage": "no"})
    served = SLOTS[slots]
    if served is not None:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", *served)
            wait_until(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")))
    return server.url()


@pytest.mark.parametrize("slots", SLOTS)
def test_workers_and_doctor_refuse_it(server_factory: Callable[..., RedisServer], tmp_path: Path, slots: str) -> None:
    with LiveGroup(cluster(server_factory, slots), tmp_path) as live:
        checks = examine(live.settings, live.client, live.names)
        assert (checks[0].subject, checks[0].verdict) == ("cluster", "bad")
        assert "cluster-enabled no" in checks[0].text
        worker = live.start_worker()
        assert worker.wait() == 1
        assert "cluster mode" in worker.log()
        assert "Traceback" not in worker.log()


@pytest.mark.parametrize("slots", ["few", "none"])
def test_a_producer_refuses_it(server_factory: Callable[..., RedisServer], slots: str) -> None:
    app = install(Celery("shop", broker=cluster(server_factory, slots), set_as_current=False), Settings(partitions=4))
    installation = installation_of(app)
    assert installation is not None
    try:
        with pytest.raises(SetupError, match=r"cluster mode.*cluster-enabled no"):
            record.delay(Step("key", 1))
        with pytest.raises(SetupError, match="cluster mode"):
            record.send_many([Step("key", 1)])
    finally:
        remove_installation(installation)
        installation.group.client.close()
        close_app(app)
