"""The Grafana dashboard in config: importable, and it uses only metrics that we export, each by its type."""

from __future__ import annotations

import json
import re
from importlib import resources
from itertools import pairwise
from typing import Any

import pytest

from celery_partitions.admin.metrics import PREFIX, families
from celery_partitions.admin.overview import Overview

DASHBOARD: dict[str, Any] = json.loads(resources.files("celery_partitions_config").joinpath("grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
QUERIES = [variable["definition"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]


def exported() -> dict[str, str]:
    """The name of every sample, and its metric's type."""
    found = {}
    for family in families("partition", Overview(0.0, ()), {}):
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found.update({family.name + ending: family.type for ending in endings})
    return found


def test_every_name_in_it_is_exported_and_every_metric_of_a_partition_is_in_it() -> None:
    used = {name for text in [*(one for _, one in EXPRESSIONS), *QUERIES] for name in re.findall(rf"{PREFIX}\w+", text)}
    assert used <= exported().keys()
    kinds = {re.sub("_(bucket|sum|count)$", "", name) for name in exported()}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} == kinds


@pytest.mark.parametrize(("title", "text"), EXPRESSIONS)
def test_counters_have_rates_and_a_partition_reported_twice_counts_once(title: str, text: str) -> None:
    for name in re.findall(rf"{PREFIX}\w+", text):
        assert (f"rate({name}{{" in text) == (exported()[name] != "gauge"), title
    assert len(re.findall(r"max by \((?:le, )?group", text)) == len(re.findall(PREFIX, text)), title
    assert text.count("(") == text.count(")")
    assert text.count('{group=~"$group"}') == len(re.findall(PREFIX, text))


def test_it_has_the_form_that_grafana_imports() -> None:
    assert DASHBOARD["id"] is None
    assert DASHBOARD["title"] and DASHBOARD["uid"] and DASHBOARD["schemaVersion"] >= 36
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert variables["group"]["datasource"]["uid"] == "${datasource}"
    for panel in PANELS:
        for one in [panel, *panel["targets"]]:
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert [target["refId"] for target in panel["targets"]] == [chr(65 + n) for n in range(len(panel["targets"]))]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_no_panel_overlaps_another_and_the_rows_are_these() -> None:
    rows = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert [row["title"] for row in rows] == ["Overview", "Latency", "Failures", "Leases", "State", "Computations and attention"]
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & cells, panel["title"]
        places |= cells
    assert all(before["gridPos"]["y"] < after["gridPos"]["y"] for before, after in pairwise(rows))
