"""Recipes as files: a folder holds recipe.toml and one .j2 file for each message."""

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from prompts import lint
from prompts.render import ENVIRONMENT, Role, compile_schema

SEED = Path(__file__).with_name("seed")


@dataclass(frozen=True)
class MessageSource:
    """One message as written: `template` and `body` are None for the history."""

    role: Role
    template: str | None
    body: str | None


@dataclass(frozen=True)
class RecipeSource:
    """A recipe as written in files. Two with the same content have the same sha256."""

    name: str
    model: str
    sampling: Mapping[str, Any]
    variables: Mapping[str, Any]
    messages: tuple[MessageSource, ...]
    note: str

    @property
    def sha256(self) -> str:
        content: Any = {
            "model": self.model,
            "sampling": self.sampling,
            "variables": self.variables,
            "messages": [[m.role, m.template, m.body] for m in self.messages],
        }
        return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def template_sha256(body: str, variables: Mapping[str, Any]) -> str:
    return hashlib.sha256(rfc8785.dumps({"body": body, "variables": dict(variables)})).hexdigest()


def read_folder(folder: Path) -> Iterator[RecipeSource]:
    """Every recipe below `folder`, checked. Raises TemplateError or InvalidRequest on the first that is wrong."""
    for file in sorted(folder.glob("*/recipe.toml")):
        yield _read(file.parent, tomllib.loads(file.read_text("utf-8")))


def _read(folder: Path, table: Mapping[str, Any]) -> RecipeSource:
    schema = table.get("variables", {"type": "object", "properties": {}})
    compile_schema(schema)
    messages = []
    for entry in table["messages"]:
        file = entry.get("template")
        body = (folder / file).read_text("utf-8") if file else None
        if body is not None:
            lint.check(ENVIRONMENT, body, schema)
        name = f"{folder.name}/{file.removesuffix('.j2')}" if file else None
        messages.append(MessageSource(entry["role"], name, body))
    return RecipeSource(
        folder.name, table["model"], table.get("sampling", {}), schema, tuple(messages), table.get("note", "")
    )
