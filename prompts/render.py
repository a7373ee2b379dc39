"""Rendering: values go into templates once, are never rendered again, and cannot forge a turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jinja2 import StrictUndefined, Template
from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.control_tokens import COMMON, Tokens
from core.errors import InvalidRequest
from prompts import includes, lint

MAX_OUTPUT = 200_000  # characters a message may render to

Role = Literal["system", "user", "assistant", "history", "negative"]
ControlTokens = Literal["refuse", "neutralise"]
Message = dict[str, Any]


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

    @classmethod
    def compiled(cls, role: Role, body: str | None, bodies: Mapping[str, str]) -> "Part":
        """With the texts that it includes in their places."""
        return cls(role, None if body is None else ENVIRONMENT.from_string(includes.expand(body, bodies)))


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
    tier: int = 1
    control_tokens: ControlTokens = "refuse"
    max_output: int = MAX_OUTPUT
    tenant: str | None = None
    policy_version: int | None = None

    @property
    def name(self) -> str:
        return f"{self.recipe}@{self.version}"

    def render(
        self,
        variables: Mapping[str, Any],
        history: Sequence[Message] = (),
        tokens: Tokens = COMMON,
        seen: set[str] | None = None,
    ) -> list[Message]:
        """The messages for an engine: each template rendered once, the history where the release puts it, else last.

        `tokens` are the control tokens of the model that is asked; those that were set apart are added to `seen`.
        Raises InvalidRequest: variables that do not fit the schema, a control token in a value or in the history (where
        the release refuses them), a text that is empty or too long.
        """
        self.check(variables)
        guard = _Guard(self.control_tokens, tokens, seen)
        said = guard.safe(history, "messages") if history else history
        messages: list[Message] = []
        placed = False
        for part in self.parts:
            if part.role == "history":
                messages += said
                placed = True
            elif part.role != "negative":
                messages.append({"role": part.role, "content": self.text(part, variables, guard)})
        return messages if placed else [*messages, *said]

    def opening(self) -> list[Message]:
        """The messages that are the same for everyone: those before the first that takes a variable, or the history."""
        found: list[Message] = []
        for part in self.parts:
            try:
                if part.template is None:
                    break
                found.append({"role": part.role, "content": self.text(part, {})})
            except InvalidRequest:
                break
        return found

    def negative(self, variables: Mapping[str, Any]) -> str | None:
        """The negative prompt of an image recipe, where it has one."""
        part = next((part for part in self.parts if part.role == "negative"), None)
        return self.text(part, variables) if part else None

    def check(self, variables: Mapping[str, Any]) -> None:
        """Raise InvalidRequest where the variables do not fit the schema."""
        if not self.validator.is_valid(variables):
            error = next(iter(self.validator.iter_errors(variables)))
            where = ".".join(map(str, ("prompt", "variables", *error.instance_path)))
            raise InvalidRequest(f"{where}: {error.message[:300]}", param=where, code="invalid_variables")

    def text(self, part: Part, variables: Mapping[str, Any], guard: "_Guard | None" = None) -> str:
        """One message. A template holds no control token, so one that is in its text came, or grew, from the values."""
        guard = guard or _Guard(self.control_tokens)
        text = guard.safe(_generated(part, variables, self.max_output), "prompt.variables")
        if not text:
            raise InvalidRequest(
                f"The {part.role} message renders empty.", param="prompt.variables", code="render_empty"
            )
        return str(text)


@dataclass(frozen=True)
class _Guard:
    """What becomes of control tokens: the release's choice, for the tokens of one model."""

    choice: ControlTokens
    tokens: Tokens = COMMON
    seen: set[str] | None = None

    def safe(self, value: Any, param: str) -> Any:
        forged = self.tokens.find(value)
        if forged and self.choice == "refuse":
            raise InvalidRequest(f"The text holds the control token {forged!r}.", param=param, code="control_token")
        return self.tokens.neutralised(value, self.seen) if forged else value


RENDERING_FAILS = (
    *(TemplateRuntimeError, AssertionError, ArithmeticError, LookupError, AttributeError),
    *(TypeError, ValueError, RecursionError),
)
"""What a template and its filters raise for values that they were not made for."""


def _generated(part: Part, variables: Mapping[str, Any], most: int) -> str:
    """A template's text, ended by an error as soon as it grows too long."""
    assert part.template is not None
    pieces: list[str] = []
    size = 0
    try:
        for piece in part.template.generate(variables):
            size += len(piece)
            if size > most:
                raise InvalidRequest(f"A message renders to more than {most} characters.", code="render_too_long")
            pieces.append(piece)
    except RENDERING_FAILS as exc:
        raise InvalidRequest(f"The template cannot be rendered with these variables: {exc}", code="render") from exc
    return "".join(pieces).strip()
