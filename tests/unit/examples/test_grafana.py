"""The dashboard asks for metrics that exist, and for each of them."""

import json
import re
from pathlib import Path

import pytest
import yaml

from flows.metrics import METRICS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "grafana"


def exported(kind: str, name: str) -> set[str]:
    """The names that Prometheus sees of a metric."""
    return {f"ray_{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {f"ray_{name}"}


@pytest.fixture(scope="module")
def queries() -> list[str]:
    dashboard = json.loads((FOLDER / "controlmill.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_metric_that_the_dashboard_asks_for_is_one_of_ours(queries: list[str]) -> None:
    there = set().union(*(exported(metric.kind, name) for name, metric in METRICS.items()))
    asked = {name for query in queries for name in re.findall(r"\b(?:ray_)?controlmill_\w+", query)}
    assert asked
    assert asked <= there


def test_every_metric_is_on_the_dashboard_and_in_the_documentation(queries: list[str]) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    for name in METRICS:
        assert any(f"ray_{name}" in query for query in queries), name
        assert f"`{name}`" in page


def test_what_moves_once_per_shard_is_counted_over_minutes(queries: list[str]) -> None:
    per_shard = [query for query in queries if re.search(r"rate\(ray_controlmill_(rows|layer_rows|shard)_", query)]
    assert len(per_shard) == 4
    for query in per_shard:
        (minutes,) = re.findall(r"\[(\d+)m\]", query)
        assert int(minutes) >= 10


def test_a_query_asks_for_tags_that_the_metric_has(queries: list[str]) -> None:
    for query in queries:
        (name,) = (known for known in METRICS if re.search(rf"ray_{known}(_bucket)?\b", query))
        for tags in re.findall(r"by \(([^)]*)\)", query):
            assert set(re.split(r",\s*", tags)) - {"le"} <= set(METRICS[name].tags), query


def test_prometheus_looks_at_the_port_that_the_documentation_names() -> None:
    targets = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0][
        "targets"
    ]
    assert targets == ["127.0.0.1:9109"]
    assert "--metrics-port 9109" in (ROOT / "docs" / "monitoring.md").read_text()


def test_names_are_as_prometheus_wants_them() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"controlmill_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert metric.kind in {"counter", "gauge", "histogram"}
