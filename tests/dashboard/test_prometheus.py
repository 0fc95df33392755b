"""A real Prometheus scrapes Flower, and every expression of the Grafana dashboard returns a result."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.config.test_keda import SCALING_QUERY
from tests.dashboard.test_grafana import EXPRESSIONS, QUERIES
from tests.fundamentals.live import LiveGroup
from tests.support.applications.accounts import Payment, pay
from tests.support.flower import FlowerProcess
from tests.support.server import free_port
from tests.support.wait import wait_until

#: Longer than Prometheus needs to start and to scrape several times, on a busy machine.
PATIENCE_SECONDS = 60
#: What Grafana puts in place of its variables.
WINDOW = "10s"


class Prometheus:
    """Debian's `prometheus`, scraping one address every second."""

    def __init__(self, binary: str, target: str, directory: Path) -> None:
        self.port = free_port()
        configuration = directory / "prometheus.json"  # JSON is YAML
        job = {"job_name": "flower", "static_configs": [{"targets": [target]}]}
        configuration.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
        self.log_path = directory / "prometheus.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    binary,
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str, **query: str) -> Any:
        """The data of an API answer; None if it does not answer yet."""
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=60) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 503:  # it is still starting
                    return None
                raise AssertionError(f"{query}: {error.read().decode()}") from None
        except OSError:
            return None
        assert answer["status"] == "success" and not answer.get("warnings"), answer
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        found = self.ask("query", query=expression)
        return [] if found is None else [float(one["value"][1]) for one in found["result"]]


@pytest.fixture(scope="module")
def prometheus(flower: FlowerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no Prometheus is installed (on Debian: apt-get install --no-install-recommends prometheus)")
    one = Prometheus(binary, f"127.0.0.1:{flower.port}", tmp_path_factory.mktemp("prometheus"))
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        print(one.log_path.read_text()[-3000:])


def test_every_panel_shows_something(prometheus: Prometheus, live: LiveGroup) -> None:
    processed = f'sum(rate(celery_partitions_messages_processed_total{{group="partition"}}[{WINDOW}]))'

    def flows() -> bool:
        live.send(pay, [Payment(f"prometheus-{number}", 1) for number in range(20)])
        return any(rate > 0 for rate in prometheus.values(processed))

    wait_until(flows, PATIENCE_SECONDS, every=0.5, message="Prometheus has seen no message processed")
    for title, text in EXPRESSIONS:
        expression = text.replace("$__rate_interval", WINDOW).replace("$group", ".*")
        found = prometheus.values(expression)
        # With no waiting messages there is no oldest one, and the app has no computation that waits or gets batches, and no sink.
        assert found or any(name in text for name in ("oldest_message_age", "_calls_", "computation_batches", "sink_outputs")), f"{title}: {expression}"
    prometheus.values(SCALING_QUERY)  # it can be parsed; an empty queue has no oldest message
    for query in QUERIES:
        assert query == "label_values(celery_partitions_up, group)"
    assert prometheus.ask("label/group/values", **{"match[]": "celery_partitions_up"}) == ["partition"]


def test_the_metrics_match_the_processed_messages(prometheus: Prometheus, live: LiveGroup) -> None:
    def counted() -> bool:
        total = prometheus.values("sum(celery_partitions_messages_processed_total)")
        return total == [float(live.processed())]

    live.send(pay, [Payment("prometheus-count", 1) for _ in range(50)])
    wait_until(counted, PATIENCE_SECONDS, message="Prometheus counts other messages than were processed")
