"""The dashboard has the form that Grafana loads, and asks for nothing that the server does not measure."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from serving.metrics import Metrics

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy/grafana/serving.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
FUNCTIONS = {"sum", "rate", "max", "min", "by", "topk", "histogram_quantile"}


def measured():
    """Names of the series as Prometheus sees them, with their labels."""
    series = {}
    for family in Metrics().registry._collector_to_names:
        for name in family.describe():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}[name.type]
            for suffix in suffixes:
                labels = {
                    *getattr(family, "_labelnames", ()),
                    *getattr(name, "_labelnames", ()),
                    *(["le"] if suffix == "_bucket" else []),
                }
                series[name.name + suffix] = labels
    return series


def test_the_dashboard_is_one_that_grafana_loads():
    assert 36 <= DASHBOARD["schemaVersion"] <= 41
    assert {"uid", "title", "panels", "time", "templating"} <= set(DASHBOARD)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["type"] in {"timeseries", "stat"}
        assert panel["datasource"]["uid"] == "${datasource}"
        assert [t["refId"] for t in panel["targets"]] == sorted({t["refId"] for t in panel["targets"]})
    assert [v["name"] for v in DASHBOARD["templating"]["list"]] == ["datasource"]


def test_no_panel_covers_another():
    for panel in DASHBOARD["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for a, b in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        is_beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        is_above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert is_beside or is_above


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_names_series_and_labels_that_exist(expression):
    series = measured()
    named = set(re.findall(r"\bvitrine_\w+", expression))
    assert named
    assert named <= set(series), named - set(series)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", expression))
    labels |= {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", group)}
    assert labels <= set.union(*(series[name] for name in named))
    assert expression.count("(") == expression.count(")")
    assert {f for f in re.findall(r"\b([a-z_]+) ?\(", expression) if f not in FUNCTIONS} == set()


def test_every_metric_is_on_the_dashboard():
    shown = " ".join(EXPRESSIONS)
    families = {name.name for family in Metrics().registry._collector_to_names for name in family.describe()}
    assert [name for name in families if name not in shown] == []
