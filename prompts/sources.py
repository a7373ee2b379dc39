"""Recipes as text: what is written in files or sent to the API, before it is a release.

A folder holds recipe.toml and one .j2 file for each message; `shared/*.j2` beside the folders may be included.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from core.errors import InvalidRequest
from core.json.canonical import sha256_of_fields
from prompts import includes
from prompts.render import MAX_OUTPUT, ControlTokens, Message, Role
from prompts.schema import NOTHING

SEED = Path(__file__).with_name("seed")
SHARED = "shared"
HASHED = ("model", "sampling", "variables", "tier", "control_tokens", "max_output", "policy_version")
SETTINGS = (*HASHED, "note")
"""The fields of a release that are the same in a file, in the database and here."""


@dataclass(frozen=True)
class MessageSource:
    """One message as written: `template` and `body` are None for the history."""

    role: Role
    template: str | None
    body: str | None


@dataclass(frozen=True)
class Golden:
    """Variables and a history written down with what they must render to."""

    variables: Mapping[str, Any]
    history: tuple[Message, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class RecipeSource:
    """A recipe as written. Two with the same content have the same sha256."""

    name: str
    model: str
    messages: tuple[MessageSource, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    note: str = ""
    tier: int = 1
    control_tokens: ControlTokens = "refuse"
    max_output: int = MAX_OUTPUT
    policy_version: int | None = None
    includes: Mapping[str, str] = field(default_factory=dict)
    goldens: tuple[Golden, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of the canonical content; each message takes part by its template's hash, and an include in that."""
        messages = [
            [m.role, m.template, self.template_sha256(m.body) if m.body is not None else None] for m in self.messages
        ]
        goldens = [[dict(g.variables), list(g.history), list(g.messages)] for g in self.goldens]
        settings = {name: getattr(self, name) for name in HASHED}
        return sha256_of_fields({**settings, "messages": messages, "goldens": goldens})

    def template_sha256(self, body: str) -> str:
        pinned = {name: template_sha256(self.includes[name], NOTHING) for name in includes.names(body)}
        return template_sha256(body, self.variables, pinned)


def template_sha256(body: str, variables: Mapping[str, Any], pinned: Mapping[str, str] | None = None) -> str:
    """The hash of a template version: its body, its variables' schema and the hashes of what it includes."""
    return sha256_of_fields({"body": body, "variables": dict(variables), "includes": dict(pinned or {})})


@cache
def shipped() -> tuple[RecipeSource, ...]:
    """The recipes of SEED."""
    return tuple(read_folder(SEED))


def read_folder(folder: Path) -> Iterator[RecipeSource]:
    """Every recipe below `folder`. Raises InvalidRequest on the first that is wrong."""
    shared = {f"{SHARED}/{file.stem}": file.read_text("utf-8") for file in sorted((folder / SHARED).glob("*.j2"))}
    for file in sorted(folder.glob("*/recipe.toml")):
        try:
            yield _read(file.parent, tomllib.loads(file.read_text("utf-8")), shared)
        except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, FileNotFoundError) as exc:
            raise InvalidRequest(f"{file.parent.name}/recipe.toml: {exc!s}", code="invalid_recipe_file") from exc


def _read(folder: Path, table: Mapping[str, Any], shared: Mapping[str, str]) -> RecipeSource:
    unknown = sorted(set(table) - {*SETTINGS, "messages", "golden"})
    if unknown:
        raise KeyError(f"`{unknown[0]}` is not a field of a recipe")
    messages = []
    for entry in table["messages"]:
        file = entry.get("template")
        body = (folder / file).read_text("utf-8") if file else None
        name = entry.get("name") or f"{folder.name}/{file.removesuffix('.j2')}" if file else None
        messages.append(MessageSource(entry["role"], name, body))
    used = {name for message in messages for name in includes.names(message.body or "")}
    return RecipeSource(
        name=folder.name,
        messages=tuple(messages),
        includes={name: shared[name] for name in sorted(used)},
        goldens=tuple(_golden(entry) for entry in table.get("golden", ())),
        **{"model": table["model"]} | {name: table[name] for name in SETTINGS if name in table},
    )


def _golden(entry: Mapping[str, Any]) -> Golden:
    return Golden(entry.get("variables", {}), tuple(entry.get("history", ())), tuple(entry["messages"]))
