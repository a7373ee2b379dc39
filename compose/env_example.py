"""`make docs`: compose/.env.example, generated from the settings classes."""

from pathlib import Path

from compose.settings_doc import SERVICES
from core.settings import Settings

FILE = Path(__file__).resolve().parent / ".env.example"

# What compose itself sets for each service; a value in .env would be overruled.
SET_BY_COMPOSE = (
    "HOST",
    "PORT",
    "DATA_DIR",
    "DATABASE_URL",
    "PUBLIC_URL",
    "ORCHESTRATOR_URL",
    "DEVICE_LEASE",
    "VLLM_PYTHON",
)

INTRODUCTION = """\
# Settings of compose.yaml and compose.cpu.yaml. Copy this file to compose/.env and fill in the first lines.
# `#NAME=value` shows a default: take the `#` away to change it. Made from the code: `make docs`.

# Needed. Each a long random text: openssl rand -hex 32
POSTGRES_PASSWORD=
WAN_WORKER_API_KEY=

# Where the studio is published on this machine. For the network: 0.0.0.0:8000, behind a proxy that speaks TLS.
#PUBLISH=127.0.0.1:8000
"""


def page() -> str:
    """The whole file. A setting that several services read stands once, with the first."""
    parts = [INTRODUCTION]
    known = {*SET_BY_COMPOSE, "WAN_WORKER_API_KEY"}
    for title, settings in SERVICES.items():
        own = {name.upper() for name in settings.model_fields} - known
        parts.append(
            f"# ---- {title}\n"
            + "".join(_entry(settings, name) for name in settings.model_fields if name.upper() in own)
        )
        known |= own
    return "\n".join(parts)


def _entry(settings: type[Settings], name: str) -> str:
    field = settings.model_fields[name]
    default = field.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    elif isinstance(default, Path) and default.is_absolute():
        default = ""  # a file of the studio's own
    value = "" if default is None else str(default)
    return f"\n# {field.description}\n#{name.upper()}={value}\n"


if __name__ == "__main__":
    FILE.write_text(page(), "utf-8")
