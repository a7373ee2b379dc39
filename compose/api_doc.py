"""`make docs`: docs/api.md, from the OpenAPI document that the orchestrator publishes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "api.md"
METHODS = ("get", "post", "put", "patch", "delete")

INTRODUCTION = """\
# API

Every path of the orchestrator. A running studio shows the same with every field at `/docs`, and as OpenAPI at
`/openapi.json`. All but the operating paths and links to pictures want `Authorization: Bearer KEY`. Errors are OpenAI's
envelope, `{"error": {"message", "type", "param", "code"}}`. This page is generated: `make docs`.
"""


def published() -> dict[str, Any]:
    """The OpenAPI document, as with the default settings."""
    command = (sys.executable, "-m", "orchestrator", "openapi")
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120).stdout
    document: dict[str, Any] = json.loads(told)
    return document


def page(document: dict[str, Any]) -> str:
    """The whole page: a table for each group of paths."""
    groups: dict[str, list[str]] = {}
    for path, operations in sorted(document["paths"].items()):
        for method in METHODS:
            if method in operations:
                operation = operations[method]
                title = (operation.get("tags") or ["openai"])[0]
                groups.setdefault(title, []).append(f"| {method.upper()} | `{path}` | {_said(operation)} |")
    tables = [
        f"## {title}\n\n| | path | what it does |\n|---|---|---|\n" + "\n".join(groups[title])
        for title in sorted(groups)
    ]
    return "\n\n".join([INTRODUCTION.rstrip(), *tables]) + "\n"


def _said(operation: dict[str, Any]) -> str:
    """The first sentence of its description, else its summary."""
    text = " ".join((operation.get("description") or operation.get("summary") or "").split())
    return text.partition(". ")[0].rstrip(".").replace("|", "\\|") + "."


if __name__ == "__main__":
    FILE.write_text(page(published()), "utf-8")
