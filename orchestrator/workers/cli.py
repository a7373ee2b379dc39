"""`python -m orchestrator aliases` and `workers`: names for models, and servers by URL, from the command line, by
asking an orchestrator that runs."""

import argparse
import os
from typing import Any, get_args
from urllib.parse import quote

import httpx2

from core.commands import Commands
from core.wire.workers import Ability, Kind
from orchestrator.operate.remote import Verb, add_command

ALIASES, WORKERS = "/v1/aliases", "/v1/workers"
_ALIAS_COLUMNS = ("tenant", "name", "model")
_WORKER_COLUMNS = ("id", "kind", "url", "capacity", "outstanding", "breaker", "ready", "probed_ready", "drained")
_TENANT = {"--tenant": {"help": "whose name it is; without it: everyone's"}}
_NAME = {"name": {"help": "what callers say"}}
_MODEL = {"model": {"help": "what is asked: a model that a worker serves"}}
_ID = {"id": {"help": "the worker's id, as `workers list` shows it"}}
_SERVER: dict[str, dict[str, Any]] = {
    "name": {"help": "its worker id will be engine:NAME"},
    "server": {"metavar": "URL", "help": "where it is, with its /v1"},
    "--kind": {"choices": get_args(Kind), "default": "chat", "help": "what it does"},
    "--api-key-env": {"metavar": "NAME", "help": "the variable that holds the server's own key"},
    "--abilities": {"default": "", "help": f"of {', '.join(get_args(Ability))}; empty: found out by asking"},
    "--models": {"default": "", "help": "those that it may be asked for; empty: those that it lists"},
    "--alias": {"action": "append", "default": [], "metavar": "NAME=MODEL", "help": "another name for a model"},
    "--capacity": {"type": int, "default": 64, "help": "requests that it takes at once"},
}


def add_commands(commands: Commands) -> None:
    aliases = (
        Verb("set", "make a name mean a model", _set_alias, {**_NAME, **_MODEL, **_TENANT}),
        Verb(
            "remove",
            "forget a name",
            lambda client, given: client.delete(f"{ALIASES}/{quote(given.name)}", params=_tenant(given)),
            {**_NAME, **_TENANT},
        ),
        Verb("list", "show names", lambda client, given: client.get(ALIASES, params=_tenant(given)), _TENANT),
    )
    workers = (
        Verb("add", "use any OpenAI-compatible server, by its URL", _add, _SERVER),
        Verb("list", "show live workers", lambda client, given: client.get(WORKERS)),
        Verb("drain", "give it no new request", lambda client, given: client.put(f"{_at(given)}/drain"), _ID),
        Verb("undrain", "give it requests again", lambda client, given: client.delete(f"{_at(given)}/drain"), _ID),
        Verb("remove", "forget it", lambda client, given: client.delete(_at(given)), _ID),
    )
    about = "names that a tenant, or everyone, gives to models"
    add_command(commands, "aliases", about, verbs=aliases, columns=_ALIAS_COLUMNS)
    about = "see, register, drain and remove workers"
    add_command(commands, "workers", about, verbs=workers, columns=_WORKER_COLUMNS)


def _at(given: argparse.Namespace) -> str:
    return f"{WORKERS}/{quote(given.id)}"


def _tenant(given: argparse.Namespace) -> dict[str, str]:
    return {"tenant": given.tenant} if given.tenant else {}


def _set_alias(client: httpx2.Client, given: argparse.Namespace) -> httpx2.Response:
    return client.put(f"{ALIASES}/{quote(given.name)}", json={"model": given.model, **_tenant(given)})


def _add(client: httpx2.Client, given: argparse.Namespace) -> httpx2.Response:
    """The orchestrator says what is wrong with the body."""
    key = {"api_key": os.environ[given.api_key_env]} if given.api_key_env else {}
    body = {
        **{"name": given.name, "url": given.server, "kind": given.kind, "capacity": given.capacity, **key},
        "abilities": _names(given.abilities),
        "models": _names(given.models),
        "aliases": dict(each.partition("=")[::2] for each in given.alias),
    }
    return client.post(WORKERS, json=body)


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]
