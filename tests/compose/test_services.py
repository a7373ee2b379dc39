"""What `make up` starts: who listens where, knows which key, and is reached at which address."""

from pathlib import Path

import pytest

from compose.ports import DEFAULTS
from compose.services import Service, planned, reached_at

DATA = Path("somewhere")


def services(host: str = "127.0.0.1", *, own_engine: bool = True) -> dict[str, Service]:
    plan = planned(host, DEFAULTS, DATA, "postgresql://", "worker-key", own_engine=own_engine)
    return {service.command.name: service for service in plan}


def test_the_orchestrator_and_its_workers() -> None:
    found = services()
    assert list(found) == ["orchestrator", "llm", "image", "vision"]
    for name, service in found.items():
        environment = service.command.env
        assert service.command.argv[1:] == ("-m", name)
        assert environment["WAN_WORKER_API_KEY"] == "worker-key"
        assert service.command.log_path == DATA / "logs" / f"{name}.log"
        assert service.ready_url.startswith(f"http://127.0.0.1:{environment['PORT']}/")
        assert ("DATABASE_URL" in environment) == (name == "orchestrator")


def test_with_another_server_there_is_no_engine_of_its_own() -> None:
    assert list(services(own_engine=False)) == ["orchestrator", "image", "vision"]


HOSTS = {
    "127.0.0.1": "http://127.0.0.1:8000",
    "0.0.0.0": "http://127.0.0.1:8000",
    "10.0.0.7": "http://10.0.0.7:8000",
    "::": "http://[::1]:8000",
    "fd00::7": "http://[fd00::7]:8000",
}


@pytest.mark.parametrize(("host", "url"), HOSTS.items())
def test_only_the_orchestrator_is_seen_from_outside(host: str, url: str) -> None:
    """Workers stay on loopback and say so, also on a pod that has a public address."""
    assert reached_at(host, 8000) == url
    found = services(host)
    assert found["orchestrator"].command.env["HOST"] == host
    for name in ("llm", "image", "vision"):
        environment = found[name].command.env
        assert (environment["HOST"], environment["ORCHESTRATOR_URL"]) == ("127.0.0.1", url)
        assert environment["PUBLIC_URL"] == f"http://127.0.0.1:{environment['PORT']}"
