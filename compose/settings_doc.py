"""`make docs`: docs/settings.md, generated from the settings classes."""

from itertools import groupby
from pathlib import Path

from pydantic import SecretStr

from core.settings import Settings
from image.settings import ImageSettings
from llm.settings import ChatWorkerSettings
from orchestrator.settings import OrchestratorSettings
from vision.settings import VisionSettings

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "settings.md"

SERVICES: dict[str, type[Settings]] = {
    "Orchestrator": OrchestratorSettings,
    "Chat worker": ChatWorkerSettings,
    "Image worker": ImageSettings,
    "Selfie worker": VisionSettings,
}
GROUPS: dict[str, tuple[str, ...]] = {
    "Every service": tuple(SERVICES),
    "Every worker": tuple(SERVICES)[1:],
    "Chat worker and image worker": tuple(SERVICES)[1:3],
    **{title: (title,) for title in SERVICES},
}
"""A section's title, and the services that read its settings alike."""

INTRODUCTION = """\
# Settings

For whoever configures a service: every setting as `NAME=default`, and its meaning. The environment wins over the
settings file: `soundstage.toml` in the working directory, or the file that `SOUNDSTAGE_SETTINGS` names. A list is
`a,b,c` in the environment and an array in TOML. `python -m orchestrator settings` prints what is in force, with
secrets masked. This page is generated: `make docs`.
"""

Row = tuple[str, str, str]
"""A setting's name, default and meaning."""


def page() -> str:
    """The whole page: what several services read alike first, then each service's own."""
    rows = {title: _rows(settings) for title, settings in SERVICES.items()}
    parts, shown = [INTRODUCTION], {title: set[Row]() for title in SERVICES}
    for title, services in GROUPS.items():
        alike = [
            row
            for row in rows[services[0]]
            if all(row in rows[service] and row not in shown[service] for service in services)
        ]
        parts.append(f"## {title}\n\n" + "\n".join(_lines(alike)) + "\n")
        for service in services:
            shown[service] |= set(alike)
    return "\n".join(parts)


def _rows(settings: type[Settings]) -> list[Row]:
    return [
        (name.upper(), _shown(field.default), field.description or "") for name, field in settings.model_fields.items()
    ]


def _lines(rows: list[Row]) -> list[str]:
    """A line for each setting; neighbours that mean the same share one."""
    lines = []
    for (default, meaning), alike in groupby(rows, key=lambda row: row[1:]):
        names = ", ".join(f"`{name}{default and f'={default}'}`" for name, *_ in alike)
        lines.append(f"- {names}: {meaning}")
    return lines


def _shown(default: object) -> str:
    if default is None or default == () or isinstance(default, SecretStr):
        return ""
    if isinstance(default, Path) and default.is_absolute():
        return default.relative_to(ROOT).as_posix() if default.is_relative_to(ROOT) else default.name
    return ",".join(default) if isinstance(default, tuple) else str(default)


if __name__ == "__main__":
    FILE.write_text(page(), "utf-8")
