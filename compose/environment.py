"""`make docs`: compose/environment.yaml, generated from the settings classes: what each service gets of compose/.env.

A service is given the names of its own settings and no others, so that a worker holds no key of somebody else's.
"""

from pathlib import Path

from compose.env_example import SET_BY_COMPOSE
from compose.settings_doc import SERVICES

FILE = Path(__file__).resolve().parent / "environment.yaml"

NAMES = {"Orchestrator": "orchestrator", "Chat worker": "chat", "Image worker": "image", "Selfie worker": "selfie"}
# What libraries read by themselves.
MORE = {
    "orchestrator": (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_SERVICE_NAME",
        "OTEL_TRACES_SAMPLER",
        "OTEL_TRACES_SAMPLER_ARG",
    ),
    "chat": ("HF_ENDPOINT", "HF_HUB_OFFLINE", "VLLM_CPU_KVCACHE_SPACE"),
}

INTRODUCTION = """\
# What each service gets of compose/.env: the names of its own settings and no others. A name without a value is taken
# from there, and is left out where it is not there. Made from the code: `make docs`.
services:
"""


def given(service: str) -> list[str]:
    """The names that a service gets."""
    [settings] = [SERVICES[title] for title, name in NAMES.items() if name == service]
    own = [name.upper() for name in settings.model_fields]
    return [*(name for name in own if name not in SET_BY_COMPOSE), *MORE.get(service, ())]


def page() -> str:
    """The whole file."""
    parts = [
        f"  {service}:\n    environment:\n" + "".join(f"      {name}:\n" for name in given(service))
        for service in NAMES.values()
    ]
    return INTRODUCTION + "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(page(), "utf-8")
