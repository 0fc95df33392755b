"""The Grafana alert rules in config: one for each rule of the attention list, and one for Redis; in the form that Grafana provisions."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import pytest

from celery_partitions.admin.attention import RULES
from celery_partitions.admin.metrics import ATTENTION, UP

FILE: dict[str, Any] = json.loads(resources.files("celery_partitions_config").joinpath("grafana-alerts.json").read_text())
ALERTS: list[dict[str, Any]] = FILE["groups"][0]["rules"]


def test_there_is_an_alert_for_redis_and_for_each_rule_with_its_text() -> None:
    expressions = [alert["data"][0]["model"]["expr"] for alert in ALERTS]
    assert expressions == [f"min by (group) ({UP})", *(f'max by (group) ({ATTENTION}{{rule="{rule.name}"}})' for rule in RULES)]
    assert [alert["annotations"]["summary"] for alert in ALERTS[1:]] == [rule.help for rule in RULES]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["uid"])
def test_it_has_the_form_that_grafana_provisions(alert: dict[str, Any]) -> None:
    assert alert.keys() == {"uid", "title", "condition", "for", "noDataState", "execErrState", "labels", "annotations", "data"}
    query, threshold = alert["data"]
    assert (query["refId"], query["datasourceUid"], threshold["refId"], threshold["datasourceUid"]) == ("A", "prometheus", "B", "__expr__")
    assert alert["condition"] == "B" and threshold["model"]["expression"] == "A"
    assert re.fullmatch(r"\d+[smh]", alert["for"]) and len(alert["uid"]) <= 40
    assert alert["labels"]["severity"] in ("critical", "warning")


def test_grafana_gets_one_group_with_unique_ids() -> None:
    assert FILE["apiVersion"] == 1 and len(FILE["groups"]) == 1
    assert FILE["groups"][0].keys() == {"orgId", "name", "folder", "interval", "rules"}
    assert len({alert["uid"] for alert in ALERTS}) == len(ALERTS)
