"""Celery finds the commands by the distribution's entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from tests.support.worker import ROOT


@pytest.mark.skipif(
    not entry_points(group="celery.commands", name="partitions"),
    reason="celery finds the commands by the entry point of the installed distribution: pip install -e .",
)
def test_celery_has_the_partitions_commands(redis_url: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.support.applications.sequences",
            "partitions",
            "status",
            "--json",
        ],
        env={**os.environ, "REDIS_URL": redis_url, "PARTITIONS": "3", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["queue"] for row in json.loads(done.stdout)] == [
        "partition.0",
        "partition.1",
        "partition.2",
        "partition",
    ]
