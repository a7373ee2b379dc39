"""The Kubernetes tree: every object by Kubernetes' own schemas, and what must fit together fits."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import promql_parser
import pytest
import yaml

from compose import metrics_doc, ports
from core.settings import Settings
from image.settings import ImageSettings
from llm.settings import ChatWorkerSettings
from orchestrator.settings import OrchestratorSettings
from vision.settings import VisionSettings

TREE = metrics_doc.ROOT / "compose" / "kubernetes"
OF_KUBERNETES = ("v1", "apps/v1", "policy/v1")
SETTINGS: dict[str, type[Settings]] = {
    "orchestrator": OrchestratorSettings,
    "chat": ChatWorkerSettings,
    "image": ImageSettings,
    "selfie": VisionSettings,
}
PORTS = dict(zip(SETTINGS, ports.DEFAULTS.values(), strict=True))
KUSTOMIZATION = yaml.safe_load((TREE / "kustomization.yaml").read_text("utf-8"))


def _objects(file: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(file.read_text("utf-8")) if each]


OBJECTS = [each for name in KUSTOMIZATION["resources"] for each in _objects(TREE / name)]


def _of(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == kind}


def _container(name: str) -> dict[str, Any]:
    found: dict[str, Any] = _of("Deployment")[name]["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("each", OBJECTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_an_object_fits_its_schema(each: dict[str, Any]) -> None:
    if each["apiVersion"] in OF_KUBERNETES:
        kubernetes_validate.validate(each, "1.34", strict=True)
    else:
        assert (each["apiVersion"], each["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")


def test_the_schema_sees_what_is_wrong() -> None:
    wrong = {**_of("Deployment")["chat"], "spec": {"replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_the_tree_is_whole() -> None:
    assert set(KUSTOMIZATION["resources"]) == {file.name for file in TREE.glob("*.yaml")} - {"kustomization.yaml"}
    assert {image["name"] for image in KUSTOMIZATION["images"]} == {_container(name)["image"] for name in SETTINGS}
    assert set(_of("Deployment")) == set(_of("PodDisruptionBudget")) == set(SETTINGS)
    claims = set(_of("PersistentVolumeClaim"))
    for deployment in _of("Deployment").values():
        volumes = deployment["spec"]["template"]["spec"]["volumes"]
        assert {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v} <= claims


@pytest.mark.parametrize("name", SETTINGS)
def test_a_deployment_is_probed_at_its_port_and_named_settings_exist(name: str) -> None:
    container = _container(name)
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": PORTS[name]}
    known = {field.upper() for field in SETTINGS[name].model_fields}
    assert {each["name"] for each in container["env"]} - {"POD_IP"} <= known
    everyone = {field.upper() for settings in SETTINGS.values() for field in settings.model_fields}
    assert set(_of("ConfigMap")["soundstage"]["data"]) <= everyone


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pod_has_the_time_to_drain(name: str) -> None:
    container, spec = _container(name), _of("Deployment")[name]["spec"]["template"]["spec"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    drain = int(given.get("IMAGE_DRAIN_SECONDS") or 0) + int(given["STOP_SECONDS"])
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] + drain < spec["terminationGracePeriodSeconds"]
    assert _of("Deployment")[name]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert spec["securityContext"]["runAsNonRoot"]


def test_scaling_asks_for_a_metric_that_exists() -> None:
    depth = next(metric for metric in metrics_doc.declared() if metric.name == "soundstage_queue_depth")
    scaled = _of("ScaledObject")
    assert set(scaled) == {"chat", "image", "selfie"}
    for name, each in scaled.items():
        assert each["spec"]["scaleTargetRef"] == {"name": name}
        [trigger] = each["spec"]["triggers"]
        query = trigger["metadata"]["query"]
        summed = promql_parser.parse(query)
        assert isinstance(summed, promql_parser.AggregateExpr)
        selector = summed.expr
        assert isinstance(selector, promql_parser.VectorSelector)
        assert (selector.name, [m.name for m in selector.matchers.matchers]) == (depth.name, ["kind"])
        assert re.search(rf'kind="{name}"', query)
        assert int(trigger["metadata"]["threshold"]) > 0
