"""A request's path and query: what is refused, and what an encoded slash means.

An encoded slash or backslash is a character of its segment: it never makes a segment, so it never leads to another
route. It stays encoded in the scope's path; a route whose names may hold slashes calls `unescaped`.
"""

import re
from urllib.parse import unquote

from starlette.types import Scope

from core.errors import InvalidRequest

_SLASHES = re.compile(rb"%(2f|5c)", re.IGNORECASE)
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_DOTS = re.compile(r"/\.{1,2}(/|$)")


def settle_path(scope: Scope) -> None:
    """Set the scope's path as the routes shall see it. Raises InvalidRequest."""
    if b"%00" in scope.get("query_string", b""):
        raise InvalidRequest("The query holds NUL.", param="query", code="invalid_query")
    raw: bytes = scope.get("raw_path") or b""
    if b"%" not in raw:
        if b"/." in raw and _DOTS.search(scope["path"]):
            raise _refused("The path holds a segment of dots.")
        return
    if _BROKEN_ESCAPE.search(raw):
        raise _refused("The path holds a percent sign that begins no escape.")
    try:
        path = unquote(_SLASHES.sub(rb"%25\1", raw).decode("ascii"), errors="strict")
    except UnicodeDecodeError as exc:
        raise _refused("The path is not UTF-8.") from exc
    if _CONTROL.search(path):
        raise _refused("The path holds a control character.")
    if _DOTS.search(path):
        raise _refused("The path holds a segment of dots.")
    scope["path"] = path


def unescaped(name: str) -> str:
    """A path parameter whose encoded slashes are slashes."""
    return re.sub("%2f", "/", name, flags=re.IGNORECASE)


def _refused(text: str) -> InvalidRequest:
    return InvalidRequest(text, param="path", code="invalid_path")
