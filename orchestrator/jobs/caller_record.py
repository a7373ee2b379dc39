"""Who asked for a run, as it is kept with it: what it is judged by, also when another process resumes it. No secret."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.access.keys import Key
from orchestrator.access.limits import Limits
from orchestrator.runs.caller import Caller


def own_caller(caller: Caller, seconds: float) -> Caller:
    """The caller without the request that they came with: a run has a deadline of its own, in so many seconds."""
    key = replace(caller.key, expires_at=None, aliases={})
    until = asyncio.get_running_loop().time() + seconds
    return replace(caller, key=key, until=until, prove_tokens=False, notes=None)


def caller_record(caller: Caller) -> dict[str, Any]:
    return {
        "request_id": caller.request_id,
        "route": caller.route,
        "session": caller.session,
        "asked_tier": caller.asked_tier,
        "max_tier": caller.key.max_tier,
        "scopes": sorted(caller.key.scopes),
        "trace": caller.trace,
    }


def caller_of(row: Mapping[str, Any]) -> Caller:
    """Of a claimed row: as they were when they asked, under the limits that their key and tenant have now."""
    record = row["caller"]
    own, tenants = (Limits.model_validate(row[name] or {}) for name in ("limits", "tenant_limits"))
    return Caller(
        key=Key(row["key_id"], row["tenant"], frozenset(record["scopes"]), record["max_tier"], None, own, tenants),
        request_id=record["request_id"],
        route=record["route"],
        session=record["session"],
        asked_tier=record["asked_tier"],
        until=asyncio.get_running_loop().time() + row["seconds_left"],
        trace=record.get("trace"),
        priority=row["priority"],
    )
