"""`python -m orchestrator plan`: which model runs on which card, in how many bytes, on this machine or on any other."""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence

from placement.cards import Card, CardError, cards_of
from placement.layout import PlanError, Wish
from placement.plan import Plan, pinned, plan
from placement.sizes import Model, SizesError, read, shipped
from placement.start import as_json, table

DEFAULT_MODELS = "chat,zimage,base"
QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`plan` and what it takes."""
    parser = commands.add_parser("plan", help="which model runs on which card", description=__doc__)
    parser.add_argument(
        "--gpu",
        action="append",
        metavar="CARD",
        help="a card: a name (4090), a size (24GB), several (2x24GB), 24GB-3.5 where 3.5 GiB of it are taken; the"
        " default is what nvidia-smi finds",
    )
    parser.add_argument(
        "--models", default=DEFAULT_MODELS, help="what shall run, what matters most first (%(default)s)"
    )
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="MODEL:KEY=VALUE,…",
        help="keep one line: card, dtype or kv (GiB of cache), such as chat:card=0,dtype=fp8,kv=4",
    )
    parser.add_argument("--sizes", metavar="FILE", help="a table of sizes (TOML) in place of the one that ships")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> int:
    """The exit status: 0; 1 where a model has no place; 2 where what is asked for cannot be understood."""
    try:
        found = _plan(given)
    except (CardError, PlanError, SizesError, OSError, UnicodeDecodeError, subprocess.SubprocessError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    shown = json.dumps(as_json(found), indent=2) if given.json else "\n".join(table(found))
    sys.stdout.write(shown + "\n")
    return 1 if found.left_out else 0


def _plan(given: argparse.Namespace) -> Plan:
    if given.sizes is None:
        sizes = shipped()
    else:
        with open(given.sizes, encoding="utf-8") as file:
            sizes = read(file.read())
    wanted = wishes(given.models, given.pin, sizes)
    if not wanted:
        raise PlanError("--models names none.")
    cards = [card for one in given.gpu for card in cards_of(one)] if given.gpu else cards_here()
    if not cards:
        raise CardError("There is no NVIDIA card here that nvidia-smi finds: name one by --gpu.")
    if len(cards) > 8:
        raise CardError(f"A plan is for 1 to 8 cards, not {len(cards)}.")
    return plan(cards, wanted)


def wishes(models: str, pins: Sequence[str], sizes: dict[str, Model]) -> list[Wish]:
    """The models by name, with their pins. Raises PlanError."""
    names = [name.strip() for name in models.split(",") if name.strip()]
    found: dict[str, Wish] = {}
    for name in names:
        if name not in sizes:
            raise PlanError(f"There is no model {name}: {', '.join(sizes)}")
        if name in found:
            raise PlanError(f"{name} is named twice.")
        found[name] = Wish(sizes[name])
    for pin in pins:
        name, _, rest = pin.partition(":")
        parts = [part.partition("=") for part in rest.split(",")]
        if name not in found or not all(key and value for key, _, value in parts):
            raise PlanError(f"--pin {pin}: MODEL:KEY=VALUE of a model that shall run")
        found[name] = pinned(found[name], {key.strip(): value.strip() for key, _, value in parts})
    return list(found.values())


def cards_here() -> list[Card]:
    """What nvidia-smi says of this machine; none where it is not there."""
    if shutil.which(QUERY[0]) is None:
        return []
    out = subprocess.run(QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    return [
        Card(name.strip(), float(total) / 1024, float(used) / 1024)
        for name, total, used in csv.reader(out.splitlines())
    ]
