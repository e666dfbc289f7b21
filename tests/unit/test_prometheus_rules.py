"""Rules, dashboards and the documents about them hold together: metrics that exist, tests, paragraphs."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import bridge_sidecar.metrics
import flowless.adapters.metrics
from tests.support.repository import ROOT
from tools import dashboards
from trust_core import metric_families

RULES: Final = ROOT / "deploy" / "prometheus" / "rules.yaml"
TESTS: Final = ROOT / "deploy" / "prometheus" / "rules_test.yaml"
PAGE: Final = (ROOT / "docs" / "operations" / "alerts.md").read_text()
GROUPS: Final[list[dict[str, Any]]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: Final = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDS: Final = {rule["record"]: rule for group in GROUPS for rule in group["rules"] if "record" in rule}
PARAGRAPHS: Final = dict(re.findall(r"(?ms)^### (\w+)\n\n(.*?)(?=^##|\Z)", PAGE))

_SCRAPED: Final = frozenset(("job", "instance", "namespace", "le"))
_METRIC: Final = re.compile(r"\b((?:flowless|bridge_sidecar|process)_[a-z0-9_]+)\b(?:\{([^}]*)\})?")
_PROMTOOL: Final = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(_PROMTOOL is None, reason="needs Debian's package prometheus")


def _samples() -> dict[str, frozenset[str]]:
    """Name of each sample that the programs serve -> its labels; an e2e test shows that they do."""
    found: dict[str, frozenset[str]] = {name: frozenset() for name, _, _ in metric_families.PROCESS}
    catalogues = (flowless.adapters.metrics.CATALOGUE, bridge_sidecar.metrics.CATALOGUE)
    for family in (family for catalogue in catalogues for family in catalogue.families):
        names = (
            [f"{family.name}{end}" for end in ("_bucket", "_sum", "_count")]
            if family.kind == "histogram"
            else [family.shown_name]
        )
        found |= dict.fromkeys(names, frozenset(family.labels))
    return found


SAMPLES: Final = _samples()


def _queries() -> dict[str, str]:
    queries = {f"alert {name}": str(rule["expr"]) for name, rule in ALERTS.items()}
    queries |= {f"record {name}": str(rule["expr"]) for name, rule in RECORDS.items()}
    for dashboard in dashboards.DASHBOARDS:
        for panel in json.loads(dashboard.file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                queries[f"{dashboard.file.name} {panel['title']} {target['refId']}"] = str(target["expr"])
    return queries


QUERIES: Final = _queries()


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_a_query_asks_for_metrics_and_labels_that_the_programs_serve(query: str) -> None:
    asked = _METRIC.findall(re.sub(r'"[^"]*"', '""', query))
    assert asked
    for name, selector in asked:
        assert name in SAMPLES, name
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert labels <= SAMPLES[name] | _SCRAPED, (name, labels)
    known = frozenset().union(*(SAMPLES[name] for name, _ in asked)) | _SCRAPED
    for by in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
        assert set(by.split(", ")) <= known, by


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    severity = rule["labels"]["severity"]
    assert severity in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/operations/alerts.md#{name.lower()}"
    assert len(PARAGRAPHS[name].split()) > 20
    section = PAGE[: PAGE.index(f"### {name}\n")].rpartition("\n## ")[2].partition("\n")[0]
    assert section.endswith(f"`{severity}`")


def test_no_paragraph_is_about_an_alert_that_is_gone() -> None:
    assert set(PARAGRAPHS) == set(ALERTS)


def test_what_operators_are_woken_for_is_little_and_complete() -> None:
    pages = {name for name, rule in ALERTS.items() if rule["labels"]["severity"] == "page"}
    assert pages == {
        "FlowlessAbsent",
        "FlowlessLogTailFailing",
        "FlowlessStorageUnavailable",
        "FlowlessDatabasePoolExhausted",
        "FlowlessHashingShed",
        "FlowlessRedisBreakerOpen",
        "FlowlessCertificateExpiresSoon",
        "BridgeSidecarLeaseLost",
        "BridgeSidecarWatchRefused",
        "BridgeSidecarFailsClosed",
        "BridgeSidecarRevisionLag",
    }


def test_every_alert_is_tried_where_it_fires_and_where_it_does_not() -> None:
    tried: dict[str, set[bool]] = {name: set() for name in ALERTS}
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for expected in test["alert_rule_test"]:
            tried[expected["alertname"]].add(bool(expected["exp_alerts"]))
    assert tried == {name: {True, False} for name in ALERTS}


def test_what_the_paragraphs_name_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for setting in re.findall(r"`((?:FLOWLESS|BRIDGE_SIDECAR)_[A-Z_]+)`", PAGE):
        assert f"| `{setting}` |" in readme, setting
    for name in re.findall(r"`((?:flowless|bridge_sidecar|process)_[a-z_]+)(?:\{[^`]*)?`", PAGE):
        assert name in SAMPLES or f"{name}_bucket" in SAMPLES, name
    for name in re.findall(r"\b((?:Flowless|BridgeSidecar)[A-Z][A-Za-z]+|Session[A-Z]\w+Surge)\b", PAGE):
        assert name in ALERTS, name


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", str(RULES)), pytest.param(("test", "rules", str(TESTS)), marks=pytest.mark.long)],
)
def test_promtool_finds_no_fault_in_the_rules(arguments: tuple[str, ...]) -> None:
    _promtool(*arguments)


@needs_promtool
def test_prometheus_understands_every_query_of_the_dashboards(tmp_path: Path) -> None:
    queries = [query for name, query in QUERIES.items() if ".json " in name]
    rules = [
        {"record": f"query_{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}))
    _promtool("check", "rules", str(file))


def _promtool(*arguments: str) -> None:
    assert _PROMTOOL is not None
    done = subprocess.run([_PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_are_as_they_are_declared() -> None:
    assert dashboards.main(["--check"]) == 0, "make dashboards"


@pytest.mark.parametrize("dashboard", dashboards.DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_every_panel_says_what_it_shows_by_the_chosen_data_source(dashboard: dashboards.Dashboard) -> None:
    made = json.loads(dashboard.file.read_text())
    assert [variable["name"] for variable in made["templating"]["list"]] == ["datasource", "job", "instance"]
    panels = made["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith((".", "`."))
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)


def test_every_panel_has_its_picture() -> None:
    page = (ROOT / "docs" / "operations" / "dashboards.md").read_text()
    shown = re.findall(r"!\[([^\]]+)\]\((dashboards/[\w-]+\.svg)\)", page)
    assert [title for title, _ in shown] == [p.title for d in dashboards.DASHBOARDS for p in d.panels]
    directory = ROOT / "docs" / "operations"
    assert {name for _, name in shown} == {f"dashboards/{file.name}" for file in (directory / "dashboards").iterdir()}
