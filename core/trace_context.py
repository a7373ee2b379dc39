"""W3C's trace context as callers send it: passed on where it is one, else dropped, as the specification says."""

import re

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,100})?").fullmatch


def traceparent(sent: str | None) -> str | None:
    """The header where it is well formed."""
    return sent if sent is not None and _TRACEPARENT(sent) else None
