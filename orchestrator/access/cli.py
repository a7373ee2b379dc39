"""`python -m orchestrator keys`: API keys from the command line, by asking an orchestrator that runs."""

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import httpx2

from core.commands import Commands
from orchestrator.access.keys import Scope
from orchestrator.access.limits import Limits
from orchestrator.operate.remote import Verb, add_command

PATH = "/v1/keys"
_COLUMNS = ("id", "tenant", "name", "scopes", "max_tier", "expires_at", "last_used_at", "revoked_at")
_ID = {"id": {"help": "the key's id, as `keys list` shows it"}}
_NEW: dict[str, dict[str, Any]] = {
    "name": {"help": "who it is for"},
    "--scopes": {"default": "chat,images,pipelines", "help": f"of {', '.join(get_args(Scope))}"},
    "--tenant": {"default": "default", "help": "whose it is; the tenant must be there"},
    "--max-tier": {"type": int, "default": 1, "help": "highest content tier it may ask for"},
    "--age-assured": {"action": "store_true", "help": "its holder's age was checked (tier 2 needs this)"},
    "--days": {"type": float, "help": "it ends after so many days"},
    **{
        "--" + name.replace("_", "-"): {"type": int, "help": limit.description}
        for name, limit in Limits.model_fields.items()
    },
}
_FILTERS: dict[str, dict[str, Any]] = {
    "--tenant": {"help": "of this tenant alone"},
    "--revoked": {"action": "store_true", "help": "those that are revoked, too"},
}
_GRACE = {"type": int, "default": 3600, "help": "how long the old secret still works, at most 30 days"}


def add_commands(commands: Commands) -> None:
    verbs = (
        Verb("create", "make a key; its secret is printed this once", _create, _NEW),
        Verb("list", "show keys, never their secrets", _list, _FILTERS),
        Verb(
            "rotate",
            "give a key a new secret; the old one ends after a while",
            lambda client, given: client.post(f"{PATH}/{given.id}/rotate", json={"grace_seconds": given.grace_seconds}),
            {**_ID, "--grace-seconds": _GRACE},
        ),
        Verb("revoke", "end a key now", lambda client, given: client.delete(f"{PATH}/{given.id}"), _ID),
    )
    add_command(commands, "keys", "make, list, rotate and revoke API keys", verbs=verbs, columns=_COLUMNS)


def _list(client: httpx2.Client, given: argparse.Namespace) -> httpx2.Response:
    tenant = {"tenant": given.tenant} if given.tenant else {}
    return client.get(PATH, params={"revoked": str(given.revoked).lower(), **tenant})


def _create(client: httpx2.Client, given: argparse.Namespace) -> httpx2.Response:
    """The orchestrator says what is wrong with the body."""
    limits = {name: getattr(given, name) for name in Limits.model_fields if getattr(given, name) is not None}
    ends = (datetime.now(UTC) + timedelta(days=given.days)).isoformat() if given.days else None
    body = {
        "name": given.name,
        "scopes": [scope.strip() for scope in given.scopes.split(",") if scope.strip()],
        "tenant": given.tenant,
        "max_tier": given.max_tier,
        "age_assured": given.age_assured,
        "expires_at": ends,
        "limits": limits,
    }
    return client.post(PATH, json=body)
