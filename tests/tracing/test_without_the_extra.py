"""Without `opentelemetry-api` everything works if PARTITIONS_TRACING is off. If it is on, each process says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker import ROOT

#: Hides the package from the import system, as on a machine without it.
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""

WORKER = BLOCKED + """
from celery.bin.celery import main
sys.argv = ["celery", "-A", "celery_partitions.demo.stocks", "worker"]
sys.exit(main())
"""

SEND = BLOCKED + """
from celery_partitions import SetupError
from celery_partitions.demo.stocks import Stock, update_stock
for send in (lambda: update_stock.delay(Stock("AAPL", 1.0)), lambda: update_stock.send_many([Stock("AAPL", 1.0)])):
    try:
        send()
        print("sent")
    except SetupError as error:
        print(error)
"""

WHAT_TO_DO = "PARTITIONS_TRACING is on, but OpenTelemetry is not installed: pip install 'celery-partitions[otel]', or unset PARTITIONS_TRACING"


def python(code: str, directory: Path, url: str, tracing: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "REDIS_URL": url, "PARTITIONS_TRACING": tracing}
    return subprocess.run([sys.executable, "-c", code], cwd=directory, env=env, capture_output=True, text=True, timeout=60)


def test_a_worker_is_refused(tmp_path: Path, redis_url: str) -> None:
    ended = python(WORKER, tmp_path, redis_url, "1")
    assert ended.returncode == 1
    assert WHAT_TO_DO in ended.stderr


@pytest.mark.parametrize(("tracing", "line"), [("1", WHAT_TO_DO), ("0", "sent")])
def test_sending(tmp_path: Path, redis_url: str, tracing: str, line: str) -> None:
    ended = python(SEND, tmp_path, redis_url, tracing)
    assert ended.stdout.splitlines() == [line, line], ended.stderr


def test_with_tracing_off_spans_is_not_imported(tmp_path: Path, redis_url: str) -> None:
    """redis-py imports OpenTelemetry if it is installed; we do not."""
    code = "import sys, celery_partitions.demo.stocks\ncelery_partitions.demo.stocks.update_stock.send_many([])\nprint([n for n in sys.modules if n.startswith('celery_partitions.tracing')])"
    assert python(code, tmp_path, redis_url, "0").stdout == "['celery_partitions.tracing', 'celery_partitions.tracing.switch', 'celery_partitions.tracing.headers']\n"
