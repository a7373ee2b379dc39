"""How a long run ends: bounded, with its figures printed and kept, and with 1 where something does not hold."""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

from bench.harness import machine, save

Run = Callable[..., Awaitable[dict[str, Any]]]
"""Takes an empty folder, N and the options by name. Its figures; `holds` says of each promise whether it was kept."""


def end(
    name: str, what: str, run: Run, *, unit: str, default: int, limit_seconds: float, **options: str | int
) -> NoReturn:
    """Run it with the N and the options (given with their defaults) of the command line. A run of at least the default
    N is kept in bench/results/NAME.json."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.endurance.{name}", description=what)
    parser.add_argument("n", nargs="?", type=int, default=default, help=f"{unit} (%(default)s)")
    parser.add_argument("--limit", type=float, default=limit_seconds, help="seconds after which it fails (%(default)s)")
    for option, value in options.items():
        parser.add_argument(f"--{option}", type=type(value), default=value, help="(%(default)s)")
    given = vars(parser.parse_args())
    n, limit = given.pop("n"), given.pop("limit")
    with tempfile.TemporaryDirectory(prefix="soundstage-") as folder:
        figures = asyncio.run(_bounded(run(Path(folder), n, **given), limit))
    figures = {unit: n, **figures, "machine": machine()}
    if n >= default:
        save(name, figures)
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    sys.exit(0 if all(figures["holds"].values()) else 1)


async def _bounded(work: Awaitable[dict[str, Any]], seconds: float) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        return await work
