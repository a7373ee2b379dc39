"""What the command lines of the services have in common: help that keeps its lines, `serve`, and `settings`."""

import argparse
import json
import sys
from typing import TypeAlias

from core.settings import Settings

EXIT = "Exit status: 0 done, 1 refused or failed (the reason is on standard error), 2 a wrong command line."
SETTINGS = "Settings come from the environment and soundstage.toml: docs/settings.md."

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser(module: str, description: str) -> tuple[argparse.ArgumentParser, Commands]:
    """The parser of `python -m module`, and where its commands are added; it has `serve` and `settings`."""
    whole = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"Without a command it serves. {SETTINGS}\n{EXIT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", help="run the service until SIGINT or SIGTERM (the default)")
    add_json(commands.add_parser("settings", help="print every setting with its value, secrets masked"))
    return whole, commands


def add_json(command: argparse.ArgumentParser) -> None:
    """--json, as every command that prints something has it."""
    command.add_argument("--json", action="store_true", help="print JSON")


def print_settings(settings: Settings, *, as_json: bool) -> None:
    """NAME=value lines, or one JSON object."""
    masked = settings.masked()
    text = json.dumps(masked, indent=2) if as_json else "\n".join(f"{name}={value}" for name, value in masked.items())
    sys.stdout.write(text + "\n")
