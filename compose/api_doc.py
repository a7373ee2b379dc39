"""`make docs`: docs/api.md, from the OpenAPI document that the orchestrator publishes."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "api.md"
METHODS = ("get", "post", "put", "patch", "delete")

INTRODUCTION = """\
# API

For whoever writes a client: every path of the orchestrator. A running studio shows them with every field at `/docs`,
and as OpenAPI at `/openapi.json`. All but the operating paths and links to pictures want `Authorization: Bearer KEY`.
Errors are OpenAI's envelope, `{"error": {"message", "type", "param", "code"}}`. This page is generated: `make docs`.
"""


def published() -> dict[str, Any]:
    """The OpenAPI document, as with the default settings."""
    command = (sys.executable, "-m", "orchestrator", "openapi")
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120).stdout
    document: dict[str, Any] = json.loads(told)
    return document


def page(document: dict[str, Any]) -> str:
    """The whole page: a list for each group of paths; paths of one meaning share a line."""
    groups: dict[str, dict[str, list[str]]] = {}
    for path, operations in sorted(document["paths"].items()):
        for method in METHODS:
            if method in operations:
                title = (operations[method].get("tags") or ["openai"])[0]
                meaning = _meaning(operations[method])
                groups.setdefault(title, {}).setdefault(meaning, []).append(f"`{method.upper()} {path}`")
    parts = [INTRODUCTION]
    for title in sorted(groups):
        lines = [f"- {', '.join(paths)}{meaning and f': {meaning}.'}" for meaning, paths in groups[title].items()]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _meaning(operation: dict[str, Any]) -> str:
    """The first clause of its description; empty: its path says all there is to say."""
    text = " ".join((operation.get("description") or "").split())
    return re.split(r"\. |; ", text, maxsplit=1)[0].rstrip(".")


if __name__ == "__main__":
    FILE.write_text(page(published()), "utf-8")
