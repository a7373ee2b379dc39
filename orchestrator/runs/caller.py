"""Who asks, as their request's headers say: under what tier they are judged, how long they wait, what they stick to."""

import asyncio
import math
from dataclasses import dataclass
from typing import TypedDict

from starlette.types import Scope

from core.errors import InvalidRequest
from core.trace_context import traceparent
from orchestrator.access.keys import Key
from orchestrator.policy import decide as policy

TIMEOUT_HEADER = b"x-request-timeout"
PRIORITY_HEADER = b"x-priority"
_READ = frozenset((b"x-content-tier", b"x-session-id", b"x-prove", b"traceparent", TIMEOUT_HEADER, PRIORITY_HEADER))
MAX_TIMEOUT = 86_400


@dataclass(frozen=True)
class Caller:
    """Who asks, where, and under what tier they want to be judged."""

    key: Key
    request_id: str
    route: str
    session: str | None
    asked_tier: int | None = None
    prove_tokens: bool = False
    until: float = math.inf  # when the caller has no more use for an answer, on the event loop's clock
    trace: str | None = None  # the `traceparent` that workers are told
    priority: int = 0  # among its tenant's who wait: the higher goes first
    notes: Scope | None = None  # what is written down of the request, for its line in the log

    @property
    def sticks_to(self) -> str:
        """What a canary is sticky by."""
        return self.session or self.key.id

    @property
    def place(self) -> "Waits":
        """Whose turn it is to wait for a place at a worker, until when it may, and what it is traced as."""
        return {
            "tenant": self.key.tenant,
            "priority": self.priority,
            "until": self.until,
            "trace": self.trace,
            "notes": self.notes,
        }


class Waits(TypedDict):
    tenant: str
    priority: int
    until: float
    trace: str | None
    notes: Scope | None


def caller_of(scope: Scope, key: Key) -> Caller:
    """From a request: `X-Content-Tier` lowers the tier, of several the lowest holds; `X-Session-Id` makes a canary and
    a worker stick to a session, `X-Prove: tokens` asks for the hash of a relayed prompt's tokens, `X-Request-Timeout`
    is how long the caller waits, in seconds, `X-Priority` (0 to 9) puts it before others of its tenant who wait."""
    asked: int | None = None
    session: str | None = None
    trace: str | None = None
    tokens, until, priority = False, math.inf, 0
    for name, value in scope["headers"]:
        if name not in _READ:
            continue
        if name == b"x-content-tier":
            asked = policy.tier_in_force(asked, *map(_tier, value.split(b",")))
        elif name == b"x-session-id":
            session = value[:200].decode("latin-1")
        elif name == b"x-prove":
            tokens = value == b"tokens"
        elif name == b"traceparent":
            trace = traceparent(value.decode("latin-1"))
        elif name == TIMEOUT_HEADER:
            until = asyncio.get_running_loop().time() + _seconds(value)
        elif name == PRIORITY_HEADER:
            priority = _priority(value)
    return Caller(
        key=key,
        request_id=scope["request_id"],
        route=scope["path"],
        session=session,
        asked_tier=asked,
        prove_tokens=tokens,
        until=until,
        trace=trace,
        priority=priority,
        notes=scope,
    )


def _seconds(value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT:
        raise InvalidRequest(
            f"X-Request-Timeout is a number of seconds, above 0 and at most {MAX_TIMEOUT}.",
            param="X-Request-Timeout",
            code="invalid_timeout",
        )
    return seconds


def _priority(value: bytes) -> int:
    if len(value) != 1 or not value.isdigit():
        raise InvalidRequest("X-Priority is 0 to 9.", param="X-Priority", code="invalid_priority")
    return int(value)


def _tier(value: bytes) -> int:
    if value.strip() not in (b"0", b"1", b"2"):
        raise InvalidRequest("X-Content-Tier is 0, 1 or 2.", param="X-Content-Tier", code="invalid_tier")
    return int(value)
