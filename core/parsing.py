"""A body read as a pydantic model: what is wrong with it is said in the API's words."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from core.errors import InvalidRequest
from core.service import from_validation

Body = TypeVar("Body", bound=BaseModel)


def parse(kind: type[Body], body: bytes, error: type[InvalidRequest] = InvalidRequest) -> Body:
    """Raises `error` with the field's name as `param`, and InvalidRequest for what is no JSON."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        raise from_validation(exc.errors(), error) from exc


def parse_object(kind: type[Body], value: Mapping[str, Any], error: type[InvalidRequest] = InvalidRequest) -> Body:
    """As parse, for JSON that was read already."""
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        raise from_validation(exc.errors(include_input=False), error) from exc


def parse_strings(kind: type[Body], fields: Mapping[str, Any]) -> Body:
    """As parse, for a form, whose values are all text."""
    try:
        return kind.model_validate_strings(fields)
    except ValidationError as exc:
        raise from_validation(exc.errors()) from exc


def body_schema(schema: Mapping[str, Any], content_type: str = "application/json") -> dict[str, Any]:
    """A route's `openapi_extra`: the body that it reads by itself."""
    return {"requestBody": {"required": True, "content": {content_type: {"schema": schema}}}}
