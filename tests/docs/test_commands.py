"""Every command that a page shows is one that there is: its syntax, its module, its subcommand and flags, its path."""

import importlib.util
import re
import subprocess
from argparse import ArgumentParser

import pytest

import image.__main__
import llm.__main__
import orchestrator.__main__
import prompts.__main__
import vision.__main__
from tests.docs.commands import ROOT, Shown, shown

PARSERS = {
    "orchestrator": orchestrator.__main__.parser,
    "llm": llm.__main__.parser,
    "image": image.__main__.parser,
    "vision": vision.__main__.parser,
    "prompts": prompts.__main__.parser,
}
PYTHON = {".venv/bin/python", "python", "python3"}
OF_OTHERS = {"docker", "kubectl", "git", "pip", "cp", "export", "grep"}
COMMANDS = shown()
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M))
PATHS = [
    re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path)) + "$")
    for path in re.findall(r"`[A-Z]+ (/[^` ]*)`", (ROOT / "docs" / "api.md").read_text("utf-8"))
]


def why_not(words: list[str]) -> str:
    """What is wrong with one program's words; empty where nothing is."""
    first, *rest = words
    if first in PYTHON and rest[:1] == ["-m"]:
        return _module(rest[1], rest[2:])
    if first == "make":
        return "" if rest[0] in TARGETS else f"make has no target {rest[0]}"
    if first == "curl":
        [url] = [word for word in rest if word.startswith("http://127.0.0.1:8000/")]
        path = url.removeprefix("http://127.0.0.1:8000").partition("?")[0]
        return "" if any(known.match(path) for known in PATHS) else f"the API has no path {path}"
    if first == "compose/pod.sh":
        return "" if not rest or rest[0] in ("orchestrator", "chat", "image", "selfie", "SERVICE") else "no service"
    return "" if first in OF_OTHERS | PYTHON else "an unknown program"


def _module(name: str, arguments: list[str]) -> str:
    if name not in PARSERS:
        return "" if importlib.util.find_spec(name) else f"there is no module {name}"
    try:
        if arguments:  # without: the program is only named
            PARSERS[name]().parse_args(arguments)
    except SystemExit as exc:
        return f"python -m {name} does not take {arguments}" if exc.code else ""
    return ""


def test_the_pages_show_commands() -> None:
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("page", sorted({command.page for command in COMMANDS}))
def test_a_command_that_a_page_shows_is_one_that_there_is(page: str) -> None:
    of_page = [command for command in COMMANDS if command.page == page]
    wrong = {f"{command.text}: {why}" for command in of_page for words in command.programs if (why := why_not(words))}
    assert wrong == set()
    script = "\n".join(command.text for command in of_page)
    assert subprocess.run(("bash", "-n"), input=script, text=True, capture_output=True, check=False).stderr == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("make upp", "make has no target upp"),
        ("python -m orchestrator keys make app", "python -m orchestrator does not take ['keys', 'make', 'app']"),
        (".venv/bin/python -m bench.nothing", "there is no module bench.nothing"),
        ("curl -s http://127.0.0.1:8000/v1/nothing", "the API has no path /v1/nothing"),
        ("compose/pod.sh video", "no service"),
        ("ls data", "an unknown program"),
    ],
)
def test_what_there_is_not_is_seen(text: str, why: str) -> None:
    assert [why_not(words) for words in Shown("a page", text).programs] == [why]


def _parsers(parser: ArgumentParser) -> list[ArgumentParser]:
    """It, and those of its commands."""
    below = [each for action in parser._actions if isinstance(action.choices, dict) for each in action.choices.values()]
    return [parser, *(found for each in below for found in _parsers(each))]


@pytest.mark.parametrize("name", PARSERS)
def test_every_command_and_every_argument_is_explained(name: str) -> None:
    """--help tells what each command does, what each argument means, and what the exit status says."""
    whole = PARSERS[name]()
    assert "Exit status: 0" in whole.format_help()
    for parser in _parsers(whole):
        for action in parser._actions:
            if isinstance(action.choices, dict):
                told = {choice.dest for choice in action._choices_actions}  # type: ignore[attr-defined]
                assert told == set(action.choices), f"{parser.prog}: commands without help"
            else:
                assert action.help, f"{parser.prog} {action.dest}"
