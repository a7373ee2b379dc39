"""`make docs`: docs/settings.md, generated from the settings classes."""

from pathlib import Path

from pydantic import SecretStr

from core.settings import Settings
from image.settings import ImageSettings
from llm.settings import ChatWorkerSettings
from orchestrator.settings import OrchestratorSettings
from vision.settings import VisionSettings

FILE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

SERVICES: dict[str, type[Settings]] = {
    "Orchestrator": OrchestratorSettings,
    "Chat worker": ChatWorkerSettings,
    "Image worker": ImageSettings,
    "Selfie worker": VisionSettings,
}

INTRODUCTION = """\
# Settings

Every setting has one name. The environment (upper case) wins over the settings file: `soundstage.toml` in the working
directory, or the file that `SOUNDSTAGE_SETTINGS` names. A list is `a,b,c` in the environment and an array in TOML.
`python -m orchestrator settings` prints what is in force, with secrets masked. This page is generated: `make docs`.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, settings in SERVICES.items():
        parts.append(f"## {title}\n\n| name | default | meaning |\n|---|---|---|\n" + "\n".join(_rows(settings)) + "\n")
    return "\n".join(parts)


def _rows(settings: type[Settings]) -> list[str]:
    rows = []
    for name, field in settings.model_fields.items():
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name.upper()}` | {_shown(field.default)} | {meaning} |")
    return rows


def _shown(default: object) -> str:
    if default is None or default == () or default == "" or isinstance(default, SecretStr):
        return ""
    if isinstance(default, Path) and default.is_absolute():
        return f"`{default.parent.name}/{default.name}`"
    return f"`{default}`"


if __name__ == "__main__":
    FILE.write_text(page(), "utf-8")
