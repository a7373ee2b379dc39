"""Rendering: values go into templates once, are never rendered again, and cannot forge a turn."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jsonschema_rs
from jinja2 import StrictUndefined, Template, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.errors import InvalidRequest
from prompts import lint

MAX_OUTPUT = 200_000  # characters a message may render to

Role = Literal["system", "user", "assistant", "history", "negative"]
Message = dict[str, Any]

# Strings that chat models read as structure. In a value they would end a turn and begin another.
CONTROL_TOKEN = re.compile(r"<\|[\w\- ]{1,40}\|>|\[/?INST\]|<<?/?SYS>>?|</?s>|<(?:start|end)_of_turn>")


class _Sandbox(ImmutableSandboxedEnvironment):
    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Variables are plain JSON: keys, never attributes. A loop's own position is the one exception."""
        return isinstance(obj, LoopContext) and attr in ("index", "index0", "first", "last", "length")


def _environment() -> ImmutableSandboxedEnvironment:
    made = _Sandbox(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)
    made.globals.clear()
    made.filters = {name: made.filters[name] for name in lint.FILTERS}
    made.tests = {name: made.tests[name] for name in lint.TESTS}
    return made


ENVIRONMENT = _environment()


@dataclass(frozen=True)
class Part:
    """One message of a release: its role and its compiled template (None for the history)."""

    role: Role
    template: Template | None


@dataclass(frozen=True)
class Release:
    """A resolved, compiled release. `name` is recipe@version."""

    recipe: str
    version: int
    model: str
    sampling: Mapping[str, Any]
    sha256: str
    parts: Sequence[Part]
    schema: Mapping[str, Any]
    validator: Any = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.recipe}@{self.version}"

    def render(self, variables: Mapping[str, Any], history: Sequence[Message] = ()) -> list[Message]:
        """The messages for an engine: each template rendered once, the history where the release puts it, else last.

        Raises InvalidRequest: variables that do not fit the schema, a control token in a value, too long a text.
        """
        self._check(variables)
        messages: list[Message] = []
        placed = False
        for part in self.parts:
            if part.role == "history":
                messages += history
                placed = True
            elif part.role != "negative":
                messages.append({"role": part.role, "content": _bounded(part, variables)})
        return messages if placed else [*messages, *history]

    def negative(self, variables: Mapping[str, Any]) -> str | None:
        """The negative prompt of an image recipe, where it has one."""
        part = next((part for part in self.parts if part.role == "negative"), None)
        return _bounded(part, variables) if part else None

    def _check(self, variables: Mapping[str, Any]) -> None:
        error = next(iter(self.validator.iter_errors(variables)), None)
        if error is not None:
            where = ".".join(map(str, ("prompt", "variables", *error.instance_path)))
            raise InvalidRequest(f"{where}: {error.message[:300]}", param=where, code="invalid_variables")
        forged = find_control_token(variables)
        if forged:
            raise InvalidRequest(
                f"A variable holds the control token {forged!r}.", param="prompt.variables", code="control_token"
            )


def compile_schema(schema: Mapping[str, Any]) -> Any:
    """A validator for variables. Raises InvalidRequest where the schema itself is wrong."""
    try:
        return jsonschema_rs.validator_for(dict(schema))
    except (jsonschema_rs.ValidationError, ValueError) as exc:
        raise InvalidRequest(f"The variables' JSON Schema is not valid: {exc}", code="invalid_schema") from exc


def find_control_token(value: Any) -> str | None:
    """The first control token inside any string of a JSON value."""
    if isinstance(value, str):
        found = CONTROL_TOKEN.search(value)
        return found[0] if found else None
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return next((token for token in map(find_control_token, value) if token), None)
    return None


def _bounded(part: Part, variables: Mapping[str, Any]) -> str:
    """One message's text, cut off by an error as soon as it grows too long."""
    assert part.template is not None
    pieces: list[str] = []
    size = 0
    try:
        for piece in part.template.generate(variables):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise InvalidRequest(f"A message renders to more than {MAX_OUTPUT} characters.", code="render_too_long")
            pieces.append(piece)
    except (UndefinedError, SecurityError, TypeError) as exc:
        raise InvalidRequest(f"The template cannot be rendered with these variables: {exc}", code="render") from exc
    return "".join(pieces).strip()
