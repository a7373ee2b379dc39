"""The compose files and Dockerfiles: by their schema and linter, and started with nothing but what an image holds."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from compose import env_example, environment, ports, settings_doc
from tests.image.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose"
FOLDERS = {
    "orchestrator": {"core", "placement", "prompts", "orchestrator"},
    "chat": {"core", "llm"},
    "image": {"core", "image"},
    "selfie": {"core", "vision"},
}
MODULES = {"orchestrator": "orchestrator", "chat": "llm", "image": "image", "selfie": "vision"}
SERVICES = {*FOLDERS, "postgres", "prometheus"}
VARIABLE = re.compile(r"\$\{(\w+):([-?])([^}]*)\}")


def interpolated(name: str) -> str:
    """As compose reads it: defaults in their places, and a value for what must be given."""
    text = (COMPOSE / name).read_text("utf-8")
    return VARIABLE.sub(lambda found: found[3] if found[2] == "-" else "given", text)


def dockerfile(service: str) -> str:
    return (COMPOSE / f"Dockerfile.{service}").read_text("utf-8")


@pytest.mark.parametrize("name", ["services.yaml", "compose.yaml", "compose.cpu.yaml"])
def test_a_compose_file_fits_the_specification(name: str) -> None:
    assert set(PyCompose.from_yaml(interpolated(name)).service_names()) == SERVICES


def test_whatever_ends_is_started_again() -> None:
    found = yaml.safe_load(interpolated("services.yaml"))["services"]
    assert {name: found[name]["restart"] for name in FOLDERS} == dict.fromkeys(FOLDERS, "unless-stopped")


def test_the_specification_sees_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="imagee"):
        PyCompose.from_yaml("services:\n  a:\n    imagee: x\n")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cpu.yaml"])
def test_what_a_compose_file_names_is_there(name: str) -> None:
    whole = yaml.safe_load(interpolated(name))
    shared = yaml.safe_load(interpolated("services.yaml"))["services"]
    for service, given in whole["services"].items():
        assert given["extends"] == {"file": "services.yaml", "service": service}
        mounted = [volume.split(":")[0] for volume in shared[service]["volumes"]]
        assert {volume for volume in mounted if "/" not in volume} <= set(whole["volumes"])
        assert all((COMPOSE / volume).exists() for volume in mounted if "/" in volume)
        if "build" in shared[service]:
            assert (COMPOSE / shared[service]["build"]["context"] / shared[service]["build"]["dockerfile"]).exists()
            assert int(shared[service]["environment"]["PORT"]) in ports.DEFAULTS.values()
        else:
            assert re.search(r":v?\d+\.\d+", shared[service]["image"]), "a pinned version"


def test_no_log_of_a_container_grows_for_ever() -> None:
    for given in yaml.safe_load(interpolated("services.yaml"))["services"].values():
        options = given["logging"]["options"]
        assert set(options) == {"max-size", "max-file"}


@pytest.mark.parametrize("service", [*FOLDERS, "prometheus"])
def test_a_container_has_a_read_only_root_and_no_privileges(service: str) -> None:
    given = yaml.safe_load(interpolated("services.yaml"))["services"][service]
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    if service in FOLDERS:
        assert [each.partition(":")[0] for each in given["tmpfs"]] == ["/tmp"]
        mounts = {volume.split(":")[1] for volume in given["volumes"]}
        assert mounts >= set(re.findall(r'"(/\w+)"', dockerfile(service).partition("VOLUME")[2].splitlines()[0]))


def test_only_the_gpu_file_asks_for_a_gpu() -> None:
    with_gpu = yaml.safe_load(interpolated("compose.yaml"))["services"]
    assert {name for name, given in with_gpu.items() if "deploy" in given} == {"chat", "image"}
    assert "nvidia" not in interpolated("compose.cpu.yaml")


def test_the_example_of_settings_is_what_the_code_says() -> None:
    assert env_example.FILE.read_text("utf-8") == env_example.page(), "run: make docs"


def test_what_each_service_is_given_is_what_the_code_says() -> None:
    assert environment.FILE.read_text("utf-8") == environment.page(), "run: make docs"


def given(service: str) -> dict[str, Any]:
    """The environment of a service, as compose merges it; a name without a value comes from .env."""
    shared = yaml.safe_load(interpolated("services.yaml"))["services"][service]
    assert "env_file" not in shared, "it would get everything that .env holds"
    assert shared["extends"] == {"file": "environment.yaml", "service": service}
    passed = yaml.safe_load(interpolated("environment.yaml"))["services"][service]["environment"]
    assert set(passed.values()) == {None}
    return {**passed, **shared["environment"]}


SECRETS = {
    "orchestrator": {"DATABASE_URL", "WAN_WORKER_API_KEY", "WEBHOOK_SECRET", "BLOB_SECRET_ACCESS_KEY", "LLM_API_KEY"},
    "chat": {"WAN_WORKER_API_KEY", "HF_TOKEN", "SUPABASE_SERVICE_ROLE_KEY"},
    "image": {"WAN_WORKER_API_KEY"},
    "selfie": {"WAN_WORKER_API_KEY", "VISION_VLM_KEY"},
}


@pytest.mark.parametrize("service", FOLDERS)
def test_a_service_gets_its_own_settings_and_nobody_elses(service: str) -> None:
    names = set(given(service))
    [settings] = [settings_doc.SERVICES[title] for title, name in environment.NAMES.items() if name == service]
    assert names <= {name.upper() for name in settings.model_fields} | set(environment.MORE.get(service, ()))
    assert names >= SECRETS[service], "what it needs"
    of_others = {name for other, secrets in SECRETS.items() if other != service for name in secrets}
    assert not names & (of_others - SECRETS[service])
    assert "POSTGRES_PASSWORD" not in names


@pytest.mark.parametrize("service", FOLDERS)
def test_a_dockerfile_passes_the_linter(service: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run((linter, COMPOSE / f"Dockerfile.{service}"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("service", FOLDERS)
def test_an_image_holds_its_folder_and_core_is_pinned_and_not_root(service: str) -> None:
    text = dockerfile(service)
    copied = {words[1].split("/")[0] for line in text.splitlines() if (words := line.split())[:1] == ["COPY"]}
    copied -= {"locks", "--from=small-model"}
    assert copied - {"compose"} == FOLDERS[service], "compose/ is for a stage that is thrown away"
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+|worker", base) for base in bases)
    assert text.count("\nHEALTHCHECK ") == 1
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "10001:10001"
    assert "VOLUME" in text


def tree(service: str, folder: Path) -> Path:
    """What the image of a service holds."""
    for name in FOLDERS[service]:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("service", FOLDERS)
def test_a_service_is_whole_with_what_its_image_holds(service: str, tmp_path: Path) -> None:
    command = (sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.'); import {MODULES[service]}.__main__")
    done = subprocess.run(command, cwd=tree(service, tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_healthcheck_tells_whether_a_service_answers(tmp_path: Path) -> None:
    """The entrypoint and the check of the selfie worker's image, run as they stand there."""
    text = dockerfile("selfie")
    [check] = re.findall(r'CMD (\["python", "-c".*\])$', text, re.MULTILINE)
    [entry] = re.findall(r"ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
    own = {"HOST": "127.0.0.1", "PORT": str(free_port()), "DATA_DIR": str(tmp_path / "data"), "LOG_LEVEL": "error"}
    environment = {**os.environ, **own}
    argv, checking = ([sys.executable, *yaml.safe_load(part)[1:]] for part in (entry, check))

    def healthy() -> bool:
        return subprocess.run(checking, env=environment, capture_output=True, check=False).returncode == 0

    assert not healthy()
    process = subprocess.Popen(argv, cwd=tree("selfie", tmp_path / "app"), env=environment)
    try:
        deadline = time.monotonic() + 120
        while not healthy():
            assert process.poll() is None
            assert time.monotonic() < deadline
    finally:
        process.terminate()
        assert process.wait(60) in (0, -signal.SIGTERM)
