"""JSON that a caller sent, decoded: whatever is wrong with it is an InvalidRequest."""

from typing import Any, TypeVar

import msgspec

from core.errors import InvalidRequest

T = TypeVar("T")

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError)
"""What msgspec raises for wrong JSON and for a value of another type; for bytes that are no UTF-8."""


def decoded(text: bytes | bytearray | str | msgspec.Raw, kind: type[T] | Any = Any) -> Any:
    """Raises InvalidRequest: not JSON, a number that no double holds, half a surrogate pair, nested too deeply."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"The body is not as it should be: {exc}", code="invalid_body") from exc
    except NOT_JSON as exc:
        raise InvalidRequest("The body is not valid JSON.", code="json_invalid") from exc
    except RecursionError as exc:
        raise too_deep() from exc


def too_deep() -> InvalidRequest:
    return InvalidRequest("The body nests too deeply.", code="json_too_deep")
