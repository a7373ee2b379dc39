"""Every route of every service asks for the key before it reads a byte of the body; what is public is listed here."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.types import Message

from core.http.shell import Shell
from image.app import create_app as image_app
from image.settings import ImageSettings
from llm.app import RELAYED
from llm.app import create_app as chat_app
from llm.settings import ChatWorkerSettings
from orchestrator.app import create_app as orchestrator_app
from orchestrator.gateway.paths import PATHS
from orchestrator.settings import OrchestratorSettings
from vision.app import create_app as vision_app
from vision.settings import VisionSettings

KEY = "the-worker-key"
OPERATING = {"GET /healthz", "GET /readyz", "GET /metrics"}
DOCS = {"GET /openapi.json", "GET /docs", "GET /docs/oauth2-redirect", "GET /redoc"}
PUBLIC = {
    "orchestrator": OPERATING | DOCS | {"GET /v1/blobs/x"},
    "chat": OPERATING | {"GET /health"},
    "image": OPERATING | {"GET /health", "GET /v1/images/files/x"},
    "vision": OPERATING | {"GET /health"},
}
RAW = {"orchestrator": tuple(PATHS), "chat": RELAYED, "image": (), "vision": ()}


def orchestrator(folder: Path) -> Shell:
    settings = OrchestratorSettings.load(data_dir=folder, wan_worker_api_key=KEY)
    return orchestrator_app(settings, "host=/nowhere")


def chat(folder: Path) -> Shell:
    return chat_app(ChatWorkerSettings.load(data_dir=folder, wan_worker_api_key=KEY, orchestrator_url=None), [])


def image(folder: Path) -> Shell:
    return image_app(ImageSettings.load(data_dir=folder, wan_worker_api_key=KEY, orchestrator_url=None), {})


def vision(folder: Path) -> Shell:
    settings = VisionSettings.load(data_dir=folder, wan_worker_api_key=KEY, orchestrator_url=None)
    eye: Any = type("FaceModels", (), {"look": None})
    return vision_app(settings, eye, cast(Any, None))


SERVICES: dict[str, Callable[[Path], Shell]] = {
    "orchestrator": orchestrator,
    "chat": chat,
    "image": image,
    "vision": vision,
}


class BodyWasRead(AssertionError):
    pass


async def ask(app: Shell, method: str, path: str, key: str | None = None) -> tuple[int, bytes]:
    """The answer to a request whose body is large and never comes. Raises BodyWasRead where somebody waits for it."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise BodyWasRead

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"studio.test"), (b"content-length", b"200000"), (b"content-type", b"application/json")]
    if key is not None:
        headers.append((b"authorization", b"Bearer " + key.encode()))
    scope = {
        **{"type": "http", "http_version": "1.1", "method": method, "scheme": "http", "query_string": b""},
        **{"path": path, "raw_path": path.encode(), "headers": headers, "root_path": "", "server": ("studio.test", 80)},
    }
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("name", SERVICES)
async def test_every_route_asks_for_the_key_before_it_reads_a_body(name: str, tmp_path: Path) -> None:
    app = SERVICES[name](tmp_path)
    status, described = await ask(app, "GET", "/openapi.json", KEY)
    assert status == 200
    routes = {
        f"{method.upper()} {re.sub('{[^}]*}', 'x', path)}"
        for path, methods in json.loads(described)["paths"].items()
        for method in methods
    }
    routes |= {f"POST {path}" for path in RAW[name]} | DOCS | {"GET /nowhere", "POST /nowhere", "OPTIONS /v1/models"}
    entered = set()
    for route in sorted(routes):
        status, body = await ask(app, *route.split(" "))
        if status == 401:
            assert json.loads(body)["error"]["type"] == "authentication_error"
        else:
            entered.add(route)
    assert entered == PUBLIC[name]
    assert len(routes) > len(entered) + 3
