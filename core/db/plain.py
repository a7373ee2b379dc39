"""Values as they are kept: plain JSON that the database takes; and errors, kept so that they can be raised again."""

import traceback
from collections.abc import Mapping
from typing import Any

from core.errors import BY_STATUS, ContentPolicy, SoundstageError


def plain(value: Any) -> Any:
    """JSON without what Postgres cannot keep: NUL characters go, halves of a surrogate pair become question marks."""
    if isinstance(value, str):
        return value if value.isascii() and "\x00" not in value else _clean(value)
    if isinstance(value, Mapping):
        return {_clean(str(name)): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


def error_record(exc: SoundstageError) -> dict[str, Any]:
    """An error as it is kept: OpenAI's four fields, its status, and when to come again."""
    fields: dict[str, Any] = exc.envelope()["error"]
    return {**plain(fields), "status": exc.status, "retry_after": exc.retry_after}


def error_of(record: Mapping[str, Any]) -> SoundstageError:
    """The error again."""
    kind = ContentPolicy if record["type"] == ContentPolicy.type else BY_STATUS.get(record["status"], SoundstageError)
    given = {name: record.get(name) for name in ("code", "param", "retry_after")}
    return kind(str(record["message"]), **given)


def error_of_caller(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller sees of an error that was kept."""
    return {name: record.get(name) for name in ("message", "type", "param", "code")}


def where(exc: BaseException) -> dict[str, Any]:
    """What a log may say of a bug: its kind and its place. Its message could repeat what a person wrote."""
    frames = traceback.extract_tb(exc.__traceback__)[-6:]
    return {"error": type(exc).__name__, "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}
