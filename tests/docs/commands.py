"""The commands that README and the pages of docs/ show: in blocks, in indented lines, and within the text."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
SHELLS = {"bash", "sh", "shell", "console"}
FIRST = r"(?:make [a-z]|compose/pod\.sh|curl |docker |kubectl |git |pip |cp |export |python3? -m|\.venv/bin/python -m)"
INDENTED = re.compile(rf"^    +({FIRST}.*)$", re.M)
INLINE = re.compile(rf"`({FIRST}[^`]*)`")


@dataclass(frozen=True)
class Shown:
    """One command as a page shows it; `text` may have several lines."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """Of a shell, comments left out. Raises ValueError where a quote is not closed."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        return list(lexer)

    @property
    def programs(self) -> list[list[str]]:
        """The words of each program that it runs, without the variables that it is given."""
        found: list[list[str]] = [[]]
        for word in self.words:
            if word in ("|", "||", "&&", ";"):
                found.append([])
            elif found[-1] or not re.match(r"[A-Z_]+=", word):
                found[-1].append(word)
        return [words for words in found if words]


def shown() -> list[Shown]:
    """All of them, each once for a page, in their order."""
    found = [Shown(page.name, text) for page in PAGES for text in _of_page(page.read_text("utf-8"))]
    return list(dict.fromkeys(found))


def _of_page(text: str) -> Iterator[str]:
    for language, body in BLOCK.findall(text):
        if language in SHELLS:
            yield from _commands(body)
    rest = BLOCK.sub("", text)
    for one in (*INDENTED.findall(rest), *INLINE.findall(rest)):
        yield one.partition("  #")[0].rstrip()


def _commands(block: str) -> Iterator[str]:
    """Of a block: a line that ends in a backslash, or within a quote, goes on."""
    lines: list[str] = []
    for line in block.splitlines():
        lines.append(line.strip().removeprefix("$ "))
        if lines[-1].endswith("\\") or not _is_whole("\n".join(lines)):
            continue
        command = "\n".join(lines).partition("  #")[0].rstrip()
        lines = []
        if command:
            yield command


def _is_whole(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True
