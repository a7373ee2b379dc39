"""The Kubernetes tree: every object by Kubernetes' own schemas, and what must fit together fits."""

import ipaddress
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
OF_KUBERNETES = ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1")
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


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pod_may_do_as_little_as_it_can(name: str) -> None:
    spec = _of("Deployment")[name]["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        **{"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_service_writes_lies_on_a_mount_of_its_own(name: str) -> None:
    """The image's own folders and the places that its environment names; its root cannot be written."""
    text = (TREE.parent / f"Dockerfile.{name}").read_text("utf-8").replace("\\\n", " ")
    named = {value for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE) for value in re.findall(r"=(/\S+)", line)}
    [made] = re.findall(r"install -d -o soundstage -g soundstage ((?:/\S+ ?)+)", text)
    written = {*named, *made.split(), "/tmp", *re.findall(r'"(/\w+)"', text.partition("VOLUME")[2][:40])}
    written -= {"/opt/vllm/bin/python", "/lease"}  # a program; workers of one GPU are in one pod or share none
    mounts = {each["mountPath"] for each in _container(name)["volumeMounts"]}
    assert {path for path in written if not any(f"{path}/".startswith(f"{mount}/") for mount in mounts)} == set()
    volumes = {each["name"] for each in _of("Deployment")[name]["spec"]["template"]["spec"]["volumes"]}
    assert volumes == {each["name"] for each in _container(name)["volumeMounts"]}


POLICIES = _of("NetworkPolicy")
MONITORING = {"kubernetes.io/metadata.name": "monitoring"}


def _chosen(policy: dict[str, Any], app: str) -> bool:
    labels = policy["spec"]["podSelector"].get("matchLabels", {})
    return all({"app": app}.get(name) == value for name, value in labels.items())


def may_reach(source: str, target: str, port: int) -> bool:
    """Whether a pod of this namespace, or `outside` or `monitoring`, is let in by a policy of the target."""
    rules = [rule for p in POLICIES.values() if _chosen(p, target) for rule in p["spec"].get("ingress", ())]
    for rule in rules:
        if port not in [each["port"] for each in rule["ports"]]:
            continue
        peers = rule.get("from")
        if peers is None or any(_peer(peer, source) for peer in peers):
            return True
    return False


def _peer(peer: dict[str, Any], source: str) -> bool:
    if "namespaceSelector" in peer:
        return source == "monitoring" and peer["namespaceSelector"]["matchLabels"] == MONITORING
    labels: dict[str, str] = peer["podSelector"]["matchLabels"]
    return labels == {"app": source}


def test_callers_reach_the_orchestrator_and_only_it_reaches_the_rest() -> None:
    targets = {**PORTS, "postgres": 5432}
    sources = (*targets, "monitoring", "outside")
    let_in = {
        (source, target) for source in sources for target, port in targets.items() if may_reach(source, target, port)
    }
    workers = set(SETTINGS) - {"orchestrator"}
    assert let_in == {
        *((source, "orchestrator") for source in sources),
        *(("orchestrator", target) for target in (*workers, "postgres")),
        *(("monitoring", worker) for worker in workers),
    }
    everything = POLICIES["nobody"]["spec"]
    assert (everything["podSelector"], set(everything["policyTypes"])) == ({}, {"Ingress", "Egress"})
    assert not everything.keys() & {"ingress", "egress"}, "who is not named has no way in or out"


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254"])
def test_no_pod_reaches_a_clouds_metadata(address: str) -> None:
    there = ipaddress.ip_address(address)
    rules = [rule for policy in POLICIES.values() for rule in policy["spec"].get("egress", ())]
    blocks = [peer["ipBlock"] for rule in rules for peer in rule["to"] if "ipBlock" in peer]
    assert any(there in ipaddress.ip_network(block["cidr"]) for block in blocks), "the exception is needed"
    for block in blocks:
        left_out = [ipaddress.ip_network(hole) for hole in block.get("except", ())]
        assert there not in ipaddress.ip_network(block["cidr"]) or any(there in hole for hole in left_out)


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
