"""A running orchestrator asked from the command line: where it is, with which key, and how its answer is printed."""

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2

from core.commands import Commands, add_json
from orchestrator.settings import OrchestratorSettings

TIMEOUT_SECONDS = 30.0
Ask = Callable[[httpx2.Client, argparse.Namespace], "httpx2.Response | int"]


@dataclass(frozen=True)
class Verb:
    """`ask` gives the orchestrator's answer, which is printed, or the exit status of what it did itself. `arguments`:
    each name with what argparse is told of it."""

    name: str
    help: str
    ask: Ask
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def add_command(commands: Commands, name: str, about: str, *, verbs: Sequence[Verb], columns: Sequence[str]) -> None:
    """A command of several verbs, run by `given.run(given, settings)`; lists are printed by these columns."""
    command = commands.add_parser(name, help=about, description=about)
    command.add_argument("--url", help="the orchestrator; the default is this machine's, at PORT")
    command.add_argument(
        "--key", help="an admin key; the default is SOUNDSTAGE_API_KEY, else the local key in DATA_DIR"
    )
    parsers = command.add_subparsers(dest="verb", required=True)
    for verb in verbs:
        parser = parsers.add_parser(verb.name, help=verb.help)
        for argument, options in verb.arguments.items():
            parser.add_argument(argument, **options)
        add_json(parser)
        parser.set_defaults(run=functools.partial(run, ask=verb.ask, columns=columns))


def run(given: argparse.Namespace, settings: OrchestratorSettings, *, ask: Ask, columns: Sequence[str]) -> int:
    """The exit status: 0, or 1 where the orchestrator refuses or does not answer; it says why on standard error."""
    url = (given.url or f"http://127.0.0.1:{settings.port}").rstrip("/")
    try:
        headers = {"authorization": f"Bearer {given.key or local_key(settings)}"}
        with httpx2.Client(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            answer = ask(client, given)
            if isinstance(answer, int):
                return answer
            found = answer.json()
            while found.get("has_more"):  # a list is shown whole
                on = answer.request.url.copy_merge_params({"after": found["data"][-1]["id"]})
                more = client.get(on).raise_for_status().json()
                found = {**more, "data": [*found["data"], *more["data"]]}
    except KeyError as exc:
        return _fail(f"There is no variable {exc} in the environment.")
    except (httpx2.HTTPError, OSError) as exc:
        return _fail(_no_answer(url, exc))
    if answer.is_error:
        return _fail(found["error"]["message"])
    shown = json.dumps(found, indent=2) if given.json else _table(found.get("data", found), columns)
    sys.stdout.write(shown + "\n")
    return 0


def _no_answer(url: str, exc: Exception) -> str:
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
