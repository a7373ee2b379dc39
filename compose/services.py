"""The services of `make up`: what each is started with, and where it says that it is ready."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.process.child import Command, SupervisedChild

LOOPBACK = "127.0.0.1"
KINDS = "chat,image,selfie"
PICTURE_SIZE = "128x128"
"""Of a pipeline's picture, where the embedded model makes it: the size that it was trained at."""


@dataclass
class Service:
    """A child, and how it is called in front of a person."""

    title: str
    command: Command
    ready_url: str
    child: SupervisedChild | None = None


def reached_at(host: str, port: int) -> str:
    """The address of a service that binds `host`, as this machine reaches it."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def planned(
    host: str, port: Mapping[str, int], data: Path, dsn: str, worker_key: str, *, own_engine: bool
) -> list[Service]:
    """The orchestrator and its workers. Workers listen on loopback, whatever HOST is."""
    common = {"DATA_DIR": str(data), "WAN_WORKER_API_KEY": worker_key}
    worker = {**common, "HOST": LOOPBACK, "ORCHESTRATOR_URL": reached_at(host, port["PORT"])}
    entry = {**common, "HOST": host, "DATABASE_URL": dsn, "READY_NEEDS": KINDS}
    if not os.environ.get("IMAGE_MODEL"):
        entry["DEFAULT_IMAGE_SIZE"] = os.environ.get("DEFAULT_IMAGE_SIZE") or PICTURE_SIZE
    found = [_service("orchestrator", "orchestrator", host, port["PORT"], data, entry, ready="/healthz")]
    if own_engine:
        found.append(_service("chat worker with its vLLM engine", "llm", LOOPBACK, port["CHAT_PORT"], data, worker))
    found.append(_service("image worker", "image", LOOPBACK, port["IMAGE_PORT"], data, worker))
    found.append(_service("selfie worker", "vision", LOOPBACK, port["SELFIE_PORT"], data, worker))
    return found


def _service(
    title: str, module: str, host: str, port: int, data: Path, env: Mapping[str, str], *, ready: str = "/readyz"
) -> Service:
    command = Command(
        name=module,
        argv=(sys.executable, "-m", module),
        env={**env, "PORT": str(port), "PUBLIC_URL": reached_at(host, port)},  # on loopback, whatever a pod says
        log_path=data / "logs" / f"{module}.log",
        grace=20.0,
    )
    return Service(title, command, reached_at(host, port) + ready)
