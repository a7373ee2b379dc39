"""The contract of a save: a release is kept only if it is sure to render, for every value its schema allows."""

import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from core.errors import InvalidRequest
from prompts import fuzz, includes, lint
from prompts.lint import TemplateError
from prompts.render import ENVIRONMENT, Part, Release
from prompts.schema import compile_schema
from prompts.sources import RecipeSource


def check(source: RecipeSource) -> Release:
    """The source as a release, compiled and tried out. Raises TemplateError (where, line and column) or InvalidRequest:
    a template outside the allow-list, one that can render empty or reads what is not declared, a schema that is not
    bounded, a golden render that differs."""
    validator = compile_schema(source.variables)
    _check_shape(source)
    bodies = dict(source.includes)
    for name, body in bodies.items():
        lint.check(ENVIRONMENT, body, source.variables, where=name, included=True)
    for message in source.messages:
        if message.body is not None:
            where = message.template or message.role
            lint.check(ENVIRONMENT, message.body, source.variables, where=where)
            missing = [name for name in includes.names(message.body) if name not in bodies]
            if missing:
                raise InvalidRequest(
                    f"{where}: includes `{missing[0]}`, which is not there.", code="template_not_found"
                )
            lint.check_output(ENVIRONMENT, includes.expand(message.body, bodies), source.variables, where=where)
    release = compile_source(source, validator)
    _try_out(release, source)
    _check_goldens(release, source)
    return release


def compile_source(source: RecipeSource, validator: Any) -> Release:
    """The source as it would be resolved, as version 0."""
    return Release(
        recipe=source.name,
        version=0,
        model=source.model,
        sampling=source.sampling,
        sha256=source.sha256,
        parts=[Part.compiled(message.role, message.body, source.includes) for message in source.messages],
        schema=source.variables,
        validator=validator,
        tier=source.tier,
        control_tokens=source.control_tokens,
        max_output=source.max_output,
    )


def _check_shape(source: RecipeSource) -> None:
    roles = [message.role for message in source.messages]
    if not roles or roles.count("history") > 1 or roles.count("negative") > 1 or set(roles) == {"negative"}:
        raise InvalidRequest(
            "A release has at least one message, at most one history and one negative.", code="invalid_release"
        )


def _try_out(release: Release, source: RecipeSource) -> None:
    """Render what the schema allows; a template that fails says for which variables."""
    values = fuzz.instances(source.variables, release.validator)
    if not values:
        raise InvalidRequest(
            "No value could be made from the schema: give `examples` where it has a pattern or a format.",
            code="invalid_schema",
        )
    for variables in values:
        for index, part in enumerate(release.parts):
            if part.template is not None:
                _try_part(release, source, index, variables)


def _try_part(release: Release, source: RecipeSource, index: int, variables: Mapping[str, Any]) -> None:
    try:
        release.text(release.parts[index], variables)
    except InvalidRequest as exc:
        if exc.code == "control_token":
            return
        line = _failing_line(exc.__cause__)
        where = source.messages[index].template or source.messages[index].role
        given = ", ".join(sorted(variables)) or "no variables"
        why = str(exc.__cause__ or exc.message)
        raise TemplateError(where, line, 1, f"cannot be rendered with {given}: {why}") from exc


def _failing_line(cause: BaseException | None) -> int:
    frames = traceback.extract_tb(cause.__traceback__) if cause else []
    return next((f.lineno or 1 for f in reversed(frames) if f.filename in ("<template>", "<unknown>")), 1)


def _check_goldens(release: Release, source: RecipeSource) -> None:
    for position, golden in enumerate(source.goldens):
        rendered = release.render(golden.variables, golden.history)
        if rendered != list(golden.messages):
            at = next(_differences(rendered, golden.messages), "their number")
            raise InvalidRequest(f"golden render {position}: differs in {at}", code="golden_differs")


def _differences(rendered: Iterable[Mapping[str, Any]], golden: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    return (f"message {at}" for at, (a, b) in enumerate(zip(rendered, golden, strict=False)) if a != b)
