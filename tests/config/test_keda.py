"""The KEDA file in config: it uses metrics that we export, and the guide shows the same query."""

from __future__ import annotations

import re
from importlib import resources

import yaml

from celery_partitions.admin.metrics import PREFIX, families
from celery_partitions.admin.overview import Overview
from celery_partitions_config.settings import Settings
from tests.support.worker import ROOT

SPEC = yaml.safe_load(resources.files("celery_partitions_config").joinpath("keda.yaml").read_text())["spec"]
SCALING_QUERY: str = SPEC["triggers"][0]["metadata"]["query"]


def test_its_metrics_are_exported() -> None:
    names = set(re.findall(rf"{PREFIX}\w+", SCALING_QUERY))
    assert len(names) == 2
    assert names <= {family.name for family in families("partition", Overview(0.0, ()), {})}


def test_it_starts_no_more_workers_than_there_are_partitions_by_default() -> None:
    assert SPEC["maxReplicaCount"] == Settings().partitions


def test_the_guide_shows_its_query() -> None:
    guide = (ROOT / "config/GROWING.md").read_text()
    shown = re.search(r"```promql\n(.*?)```", guide, re.DOTALL)
    assert shown is not None
    assert shown[1].split() == SCALING_QUERY.split()
