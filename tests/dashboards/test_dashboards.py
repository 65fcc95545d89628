"""Prometheus' and Grafana's files hold together: promtool reads every expression, and alerts fire when they must."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "dashboards"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
with_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs Prometheus: apt-get install prometheus"
)


def promtool(*arguments: str | Path) -> str:
    ran = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def panels(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text())["panels"]
    return found


def plain(expression: str) -> str:
    """PromQL without Grafana's variables."""
    return expression.replace("$__rate_interval", "1m").replace("$sweep", ".+")


@with_promtool
def test_prometheus_takes_its_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", FOLDER / "prometheus" / "prometheus.yml")


@with_promtool
def test_each_alert_fires_when_it_must_and_only_then() -> None:
    cases = Path(__file__).parent / "alerts_test.yml"
    assert "SUCCESS" in promtool("test", "rules", cases)
    rules = yaml.safe_load((FOLDER / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    fired = {
        each["alertname"]
        for case in yaml.safe_load(cases.read_text())["tests"]
        for each in case["alert_rule_test"]
        if each["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules}


@with_promtool
def test_every_panel_asks_in_promql(tmp_path: Path) -> None:
    expressions = [target["expr"] for file in DASHBOARDS for panel in panels(file) for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": plain(text)} for number, text in enumerate(expressions)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(expressions)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_is_whole(file: Path) -> None:
    dashboard = json.loads(file.read_text())
    shown = dashboard["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    assert len({panel["title"] for panel in shown}) == len(shown)
    source = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    known = {"type": source["type"], "uid": source["uid"]}
    asked = [panel["datasource"] for panel in shown] + [each["datasource"] for each in dashboard["templating"]["list"]]
    asked += [target["datasource"] for panel in shown for target in panel["targets"]]
    assert all(each == known for each in asked)
    used = set(re.findall(r"\$(\w+)", "".join(target["expr"] for panel in shown for target in panel["targets"])))
    assert used <= {each["name"] for each in dashboard["templating"]["list"]} | {"__rate_interval"}
    for panel in shown:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_no_panel_covers_another(file: Path) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in panels(file):
        at = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not covered & cells
        cells |= covered


def test_links_lead_from_dashboard_to_dashboard() -> None:
    dashboards = [json.loads(file.read_text()) for file in DASHBOARDS]
    uids = {each["uid"] for each in dashboards}
    assert len(uids) == len(DASHBOARDS)
    assert {link["url"].removeprefix("/d/") for each in dashboards for link in each["links"]} <= uids
