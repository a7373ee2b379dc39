"""Lists in OpenAI's shape, a page at a time: `has_more` says whether there is more, and `after` where to go on."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query

from core.errors import InvalidRequest

MOST = 1000
Limit = Annotated[int, Query(ge=1, le=MOST)]
After = Annotated[str | None, Query(max_length=300, description="The last id of the page before.")]
AfterNumber = Annotated[int | None, Query(ge=1, lt=2**31, description="The last number of the page before.")]


def page(rows: Sequence[Any], limit: int, **more: Any) -> dict[str, Any]:
    """Of rows that were asked for with one more than the limit."""
    return {"object": "list", "data": list(rows[:limit]), "has_more": len(rows) > limit, **more}


def unknown_after(after: object) -> InvalidRequest:
    """A page that begins nowhere is a mistake, not an empty list."""
    return InvalidRequest(f"after: there is no `{str(after)[:100]}` in this list.", param="after", code="unknown_after")
