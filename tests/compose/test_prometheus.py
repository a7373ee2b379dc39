"""Prometheus' files parse, scrape the ports that the services have, and ask only for metrics that exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, VectorSelector
from pydantic import BaseModel, ConfigDict, Field

from compose import metrics_doc, ports

COMPOSE = metrics_doc.ROOT / "compose"
METRICS = {sample: metric for metric in metrics_doc.declared() for sample in metric.samples}
OF_EVERY_TARGET = {"job", "instance"}
WANTED = {"QueueWaitLong", "BreakerOpen", "WorkerLost", "JobLag", "JobsWait", "ProofMismatch", "PolicyRefusals"}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Labels(Strict):
    severity: Literal["page", "ticket"]


class Annotations(Strict):
    summary: str
    runbook: str


class Alert(Strict):
    """An alerting rule, with the fields of Prometheus' own that this file uses."""

    alert: str
    expr: str
    lasting: str = Field("0s", alias="for", pattern=r"^\d+[smh]$")
    labels: Labels
    annotations: Annotations


def _alerts() -> list[Alert]:
    groups = yaml.safe_load((COMPOSE / "alerts.yml").read_text("utf-8"))["groups"]
    assert all(set(group) == {"name", "rules"} for group in groups)
    return [Alert.model_validate(rule) for group in groups for rule in group["rules"]]


ALERTS = _alerts()


def _nodes(node: Any) -> Iterator[Any]:
    """An expression and everything in it."""
    yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        below = getattr(node, name, None)
        if below is not None and not isinstance(below, str | int | float):
            yield from _nodes(below)
    for below in getattr(node, "args", None) or ():
        yield from _nodes(below)


def test_the_alerts_that_an_operator_needs_are_there() -> None:
    names = [alert.alert for alert in ALERTS]
    assert len(set(names)) == len(names)
    assert set(names) >= WANTED


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.alert)
def test_an_alert_asks_for_what_the_code_exports(alert: Alert) -> None:
    nodes = list(_nodes(promql_parser.parse(alert.expr)))
    selectors = [node for node in nodes if isinstance(node, VectorSelector)]
    assert selectors
    assert {selector.name for selector in selectors} <= {*METRICS, "up"}
    labels = {label for selector in selectors for label in _labels(selector)}
    for selector in selectors:
        assert {matcher.name for matcher in selector.matchers.matchers} <= set(_labels(selector))
    grouping = [node.modifier.labels for node in nodes if isinstance(node, AggregateExpr) and node.modifier]
    grouped = {label for group in grouping for label in group}
    assert grouped <= labels
    shown = set(re.findall(r"\$labels\.(\w+)", alert.annotations.summary))
    assert shown <= (grouped or labels), "the alert would show an empty name"


def _labels(selector: VectorSelector) -> set[str]:
    own = set(METRICS[selector.name].labels) if selector.name in METRICS else set()
    return own | OF_EVERY_TARGET | ({"le"} if str(selector.name).endswith("_bucket") else set())


@pytest.mark.parametrize("wrong", ["rate(soundstage_queue_depth[5m)", "sum by (kind(soundstage_workers)", "1 +"])
def test_the_parser_sees_what_is_wrong(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        promql_parser.parse(wrong)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.alert)
def test_an_alert_names_a_section_of_the_guide(alert: Alert) -> None:
    page, _, anchor = alert.annotations.runbook.partition("#")
    headings = re.findall(r"^#+ (.+)$", (metrics_doc.ROOT / page).read_text("utf-8"), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.compose.yml"])
def test_every_service_is_scraped_at_its_port(name: str) -> None:
    config = yaml.safe_load((COMPOSE / name).read_text("utf-8"))
    assert set(config) == {"global", "rule_files", "scrape_configs"}
    assert [(COMPOSE / file).exists() for file in config["rule_files"]] == [True]
    found = {}
    for job in config["scrape_configs"]:
        assert set(job) == {"job_name", "static_configs"}
        [target] = job["static_configs"][0]["targets"]
        found[job["job_name"]] = int(Path(target).name.rpartition(":")[2])
    names = {"orchestrator": "PORT", "chat": "CHAT_PORT", "image": "IMAGE_PORT", "selfie": "SELFIE_PORT"}
    assert found == {job: ports.DEFAULTS[port] for job, port in names.items()}
