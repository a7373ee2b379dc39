"""`python -m orchestrator aliases` and `workers`: names for models, and servers by URL, from the command line, by
asking an orchestrator that runs."""

import argparse
import os
from typing import Any, get_args
from urllib.parse import quote

import httpx2

from core.wire.workers import Ability, Kind
from orchestrator.operate.remote import add_where, told
from orchestrator.settings import OrchestratorSettings

COMMANDS = ("aliases", "workers")
_COLUMNS = {
    "aliases": ("tenant", "name", "model"),
    "workers": ("id", "kind", "url", "capacity", "outstanding", "breaker", "ready", "probed_ready", "drained"),
}


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`aliases set|list|remove` and `workers add|list|drain|undrain|remove`, and what each takes."""
    aliases = commands.add_parser("aliases", help="names that a tenant, or everyone, gives to models")
    workers = commands.add_parser("workers", help="see, register, drain and remove workers")
    verbs = {name: parser.add_subparsers(dest="verb", required=True) for name, parser in _with_where(aliases, workers)}
    put = verbs["aliases"].add_parser("set", help="make a name mean a model")
    put.add_argument("name", help="what callers say")
    put.add_argument("model", help="what is asked: a model that a worker serves")
    remove = verbs["aliases"].add_parser("remove", help="forget a name")
    remove.add_argument("name", help="what callers say")
    listing = verbs["aliases"].add_parser("list", help="show names")
    for verb in (put, remove, listing):
        verb.add_argument("--tenant", help="whose name it is; without it: everyone's")
    add = verbs["workers"].add_parser("add", help="use any OpenAI-compatible server, by its URL")
    add.add_argument("name", help="its worker id will be engine:NAME")
    add.add_argument("server", metavar="URL", help="where it is, with its /v1")
    add.add_argument("--kind", choices=get_args(Kind), default="chat", help="what it does")
    add.add_argument("--api-key-env", metavar="NAME", help="the variable that holds the server's own key")
    add.add_argument("--abilities", default="", help=f"of {', '.join(get_args(Ability))}; empty: found out by asking")
    add.add_argument("--models", default="", help="those that it may be asked for; empty: those that it lists")
    add.add_argument("--alias", action="append", default=[], metavar="NAME=MODEL", help="another name for a model")
    add.add_argument("--capacity", type=int, default=64, help="requests that it takes at once")
    several = [add, verbs["workers"].add_parser("list", help="show live workers")]
    for name, what in (
        ("drain", "give it no new request"),
        ("undrain", "give it requests again"),
        ("remove", "forget it"),
    ):
        several.append(verbs["workers"].add_parser(name, help=what))
        several[-1].add_argument("id", help="the worker's id, as `workers list` shows it")
    for verb in (put, remove, listing, *several):
        verb.add_argument("--json", action="store_true", help="print JSON")


def _with_where(*parsers: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    for parser in parsers:
        add_where(parser)
    return list(zip(COMMANDS, parsers, strict=True))


def run(given: argparse.Namespace, settings: OrchestratorSettings) -> int:
    """The exit status: 0, or 1 where the orchestrator refuses or does not answer; it says why on standard error."""
    ask = _ask_aliases if given.command == "aliases" else _ask_workers
    return told(given, settings, f"/v1/{given.command}", ask, _COLUMNS[given.command])


def _ask_aliases(client: httpx2.Client, url: str, given: argparse.Namespace) -> httpx2.Response:
    tenant = {"tenant": given.tenant} if given.tenant else {}
    if given.verb == "set":
        return client.put(f"{url}/{quote(given.name)}", json={"model": given.model, **tenant})
    if given.verb == "remove":
        return client.delete(f"{url}/{quote(given.name)}", params=tenant)
    return client.get(url, params=tenant)


def _ask_workers(client: httpx2.Client, url: str, given: argparse.Namespace) -> httpx2.Response:
    if given.verb == "add":
        return client.post(url, json=_wanted(given))
    if given.verb == "list":
        return client.get(url)
    at = f"{url}/{quote(given.id)}"
    if given.verb == "drain":
        return client.put(f"{at}/drain")
    return client.delete(f"{at}/drain" if given.verb == "undrain" else at)


def _wanted(given: argparse.Namespace) -> dict[str, Any]:
    """The body that registers a server; the orchestrator says what is wrong with it."""
    key = {"api_key": os.environ[given.api_key_env]} if given.api_key_env else {}
    return {
        **{"name": given.name, "url": given.server, "kind": given.kind, "capacity": given.capacity, **key},
        "abilities": _names(given.abilities),
        "models": _names(given.models),
        "aliases": dict(each.partition("=")[::2] for each in given.alias),
    }


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]
