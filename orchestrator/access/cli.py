"""`python -m orchestrator keys`: API keys from the command line, by asking an orchestrator that runs."""

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import httpx2

from orchestrator.access.keys import Scope
from orchestrator.access.limits import Limits
from orchestrator.operate.remote import add_where, told
from orchestrator.settings import OrchestratorSettings

_COLUMNS = ("id", "tenant", "name", "scopes", "max_tier", "expires_at", "last_used_at", "revoked_at")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`keys create|list|rotate|revoke` and what each takes."""
    keys = commands.add_parser("keys", help="make, list, rotate and revoke API keys", description=__doc__)
    add_where(keys)
    verbs = keys.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create", help="make a key; its secret is printed this once")
    create.add_argument("name", help="who it is for")
    create.add_argument("--scopes", default="chat,images,pipelines", help=f"of {', '.join(get_args(Scope))}")
    create.add_argument("--tenant", default="default", help="whose it is; the tenant must be there")
    create.add_argument("--max-tier", type=int, default=1, help="highest content tier it may ask for")
    create.add_argument("--age-assured", action="store_true", help="its holder's age was checked (tier 2 needs this)")
    create.add_argument("--days", type=float, help="it ends after so many days")
    for name, field in Limits.model_fields.items():
        create.add_argument("--" + name.replace("_", "-"), type=int, help=field.description)
    listing = verbs.add_parser("list", help="show keys, never their secrets")
    listing.add_argument("--tenant", help="of this tenant alone")
    listing.add_argument("--revoked", action="store_true", help="those that are revoked, too")
    rotate = verbs.add_parser("rotate", help="give a key a new secret; the old one ends after a while")
    rotate.add_argument("id", help="the key's id, as `keys list` shows it")
    rotate.add_argument(
        "--grace-seconds", type=int, default=3600, help="how long the old secret still works, at most 30 days"
    )
    revoke = verbs.add_parser("revoke", help="end a key now")
    revoke.add_argument("id", help="the key's id, as `keys list` shows it")
    for verb in (create, listing, rotate, revoke):
        verb.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace, settings: OrchestratorSettings) -> int:
    """The exit status: 0, or 1 where the orchestrator refuses or does not answer; it says why on standard error."""
    return told(given, settings, "/v1/keys", _ask, _COLUMNS)


def _ask(client: httpx2.Client, url: str, given: argparse.Namespace) -> httpx2.Response:
    if given.verb == "create":
        return client.post(url, json=_wanted(given))
    if given.verb == "list":
        tenant = {"tenant": given.tenant} if given.tenant else {}
        return client.get(url, params={"revoked": str(given.revoked).lower(), **tenant})
    if given.verb == "rotate":
        return client.post(f"{url}/{given.id}/rotate", json={"grace_seconds": given.grace_seconds})
    return client.delete(f"{url}/{given.id}")


def _wanted(given: argparse.Namespace) -> dict[str, Any]:
    """The body that makes the key; the orchestrator says what is wrong with it."""
    limits = {name: getattr(given, name) for name in Limits.model_fields if getattr(given, name) is not None}
    ends = (datetime.now(UTC) + timedelta(days=given.days)).isoformat() if given.days else None
    return {
        "name": given.name,
        "scopes": [scope.strip() for scope in given.scopes.split(",") if scope.strip()],
        "tenant": given.tenant,
        "max_tier": given.max_tier,
        "age_assured": given.age_assured,
        "expires_at": ends,
        "limits": limits,
    }
