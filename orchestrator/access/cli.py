"""`python -m orchestrator keys`: API keys from the command line, by asking an orchestrator that runs."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import httpx2

from orchestrator.access.keys import Scope
from orchestrator.access.limits import Limits
from orchestrator.settings import OrchestratorSettings

_COLUMNS = ("id", "tenant", "name", "scopes", "max_tier", "expires_at", "last_used_at", "revoked_at")
TIMEOUT_SECONDS = 30.0


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


def add_where(parser: argparse.ArgumentParser) -> None:
    """Which orchestrator is asked, and with which key."""
    parser.add_argument("--url", help="the orchestrator; the default is this machine's, at PORT")
    parser.add_argument("--key", help="an admin key; the default is SOUNDSTAGE_API_KEY, else the local key in DATA_DIR")


def run(given: argparse.Namespace, settings: OrchestratorSettings) -> int:
    """The exit status: 0, or 1 where the orchestrator refuses or does not answer; it says why on standard error."""
    return told(given, settings, "/v1/keys", _ask, _COLUMNS)


def told(
    given: argparse.Namespace,
    settings: OrchestratorSettings,
    path: str,
    ask: Callable[[httpx2.Client, str, argparse.Namespace], httpx2.Response],
    columns: Sequence[str],
) -> int:
    """Ask the orchestrator and print its answer, lists by these columns. The exit status, as `run` gives it."""
    url = (given.url or f"http://127.0.0.1:{settings.port}").rstrip("/") + path
    try:
        headers = {"authorization": f"Bearer {given.key or local_key(settings)}"}
        with httpx2.Client(headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            answer = ask(client, url, given)
            found = answer.json()
            while found.get("has_more"):  # a list is shown whole
                on = answer.request.url.copy_merge_params({"after": found["data"][-1]["id"]})
                more = client.get(on).raise_for_status().json()
                found = {**more, "data": [*found["data"], *more["data"]]}
    except KeyError as exc:
        return _fail(f"There is no variable {exc} in the environment.")
    except (httpx2.HTTPError, OSError) as exc:
        return _fail(no_answer(url, exc))
    if answer.is_error:
        return _fail(found["error"]["message"])
    shown = json.dumps(found, indent=2) if given.json else _table(found.get("data", found), columns)
    sys.stdout.write(shown + "\n")
    return 0


def no_answer(url: str, exc: Exception) -> str:
    """Why nothing was asked, and what to do about it."""
    if isinstance(exc, OSError):
        return f"There is no key to ask with: {exc}. Set SOUNDSTAGE_API_KEY, or DATA_DIR as the orchestrator has it."
    return (
        f"No orchestrator answers at {url}: {exc}. If it listens elsewhere, set PORT as it was started, or give --url."
    )


def _fail(why: str) -> int:
    sys.stderr.write(why + "\n")
    return 1


def local_key(settings: OrchestratorSettings) -> str:
    """SOUNDSTAGE_API_KEY, else the key that the orchestrator of this DATA_DIR made. Raises OSError."""
    given = os.environ.get("SOUNDSTAGE_API_KEY")
    return given or (settings.data_dir.resolve() / "keys" / "local_api_key").read_text().strip()


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


def _table(found: Any, columns: Sequence[str]) -> str:
    """Rows under their names; a key that was made as lines, its secret last."""
    if isinstance(found, dict):
        return "\n".join(f"{name}: {_shown(name, value)}" for name, value in found.items())
    rows = [tuple(columns), *(tuple(_shown(name, row[name]) for name in columns) for row in found)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("_at") and isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
