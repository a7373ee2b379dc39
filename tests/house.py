"""Measure the code's structure: `python -m tests.house` prints each number and exits 1 where one is over its limit.

Each number has an aim, and the value it is held to until it reaches the aim: lower `held` whenever a number gets
better. `--strict` holds every number to its aim.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("core", "llm", "image", "vision", "prompts", "orchestrator", "compose")
APART = ("placement", "training", "bench")

# Names that say nothing alone: what was asked, by whom? `docs/architecture.md` has the words that are used.
_VAGUE = """
    added asked attended called counted drawn found given heard held kept known made marked measured metered observed
    recorded said saved seen sent shown taken told wanted desk direct machine oversight
"""
VAGUE = frozenset(_VAGUE.split())


class Limit(NamedTuple):
    aim: int
    held: int


LIMITS = {
    "product lines": Limit(29_000, 38_000),
    "placement lines": Limit(800, 800),
    "training lines": Limit(1_800, 1_800),
    "bench lines": Limit(4_000, 4_000),
    "median file, lines": Limit(120, 120),
    "longest file, lines": Limit(300, 300),
    "longest function, lines": Limit(60, 60),
    "orchestrator folders": Limit(12, 12),
    "orchestrator floors": Limit(12, 12),
    "arrows up in the orchestrator": Limit(0, 0),
    "files on the way of story 1, a relayed request": Limit(12, 19),
    "files on the way of story 2, a recipe": Limit(12, 12),
    "files on the way of story 3, an image step": Limit(12, 12),
    "vague names of classes and modules": Limit(0, 0),
}


class Number(NamedTuple):
    name: str
    value: int
    where: tuple[str, ...] = ()


class House:
    """The source under a root, each file parsed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.texts = {
            file.relative_to(root).as_posix(): file.read_text("utf-8")
            for folder in (*PRODUCT, *APART)
            for file in sorted((root / folder).rglob("*.py"))
        }
        self.trees = {name: ast.parse(text) for name, text in self.texts.items()}

    def numbers(self) -> Iterator[Number]:
        yield Number("product lines", sum(self.lines(*PRODUCT).values()))
        for folder in APART:
            yield Number(f"{folder} lines", sum(self.lines(folder).values()))
        yield from self._sizes()
        yield from self._floors()
        yield from self._stories()
        vague = tuple(self._vague_names())
        yield Number("vague names of classes and modules", len(vague), vague)

    def lines(self, *folders: str) -> dict[str, int]:
        return {name: len(text.splitlines()) for name, text in self.texts.items() if name.split("/")[0] in set(folders)}

    def _sizes(self) -> Iterator[Number]:
        files = self.lines(*PRODUCT)
        longest = max(files, key=files.__getitem__)
        yield Number("median file, lines", round(median(files.values())))
        yield Number("longest file, lines", files[longest], (longest,))
        functions = {
            f"{node.name} in {name}": (node.end_lineno or node.lineno) - node.lineno + 1
            for name in files
            for node in ast.walk(self.trees[name])
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        most = max(functions, key=functions.__getitem__)
        yield Number("longest function, lines", functions[most], (most,))

    def _floors(self) -> Iterator[Number]:
        """A room is a folder or a file at the orchestrator's top; a floor is one room further along a chain of imports.
        Their order is import-linter's."""
        order = _layers(self.root)
        arrows = set(self._arrows(set(order)))
        up = tuple(f"{here} → {there}" for here, there in arrows if order.index(there) < order.index(here))
        folders = {name.rpartition("/")[0] for name in self.texts if name.startswith("orchestrator/")}

        @cache
        def height(room: str) -> int:
            below = (there for here, there in arrows if here == room and order.index(there) > order.index(here))
            return 1 + max(map(height, below), default=0)

        yield Number("orchestrator folders", len(folders - {"orchestrator"}))
        yield Number("orchestrator floors", max(map(height, order)))
        yield Number("arrows up in the orchestrator", len(up), up)

    def _arrows(self, rooms: set[str]) -> Iterator[tuple[str, str]]:
        for name, tree in self.trees.items():
            folder, _, rest = name.partition("/")
            here = rest.split("/")[0].removesuffix(".py")
            if folder != "orchestrator" or here not in rooms:
                continue
            for module in imported(tree):
                top, *inner = module.split(".")
                if top == "orchestrator" and inner and inner[0] in rooms - {here}:
                    yield here, inner[0]

    def _stories(self) -> Iterator[Number]:
        page = (self.root / "docs" / "architecture.md").read_text("utf-8")
        file = re.compile(rf"`((?:{'|'.join(PRODUCT)})/[\w/]+\.py)`")
        for title, text in re.findall(r"^## Story (\d: .+)\n((?:(?!## ).*\n?)*)", page, re.MULTILINE):
            number, _, subject = title.partition(": ")
            yield Number(f"files on the way of story {number}, {subject}", len(set(file.findall(text))))

    def _vague_names(self) -> Iterator[str]:
        for name, tree in self.trees.items():
            classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
            for word in chain([Path(name).stem], classes):
                if word.strip("_").lower() in VAGUE:
                    yield f"{name}: {word}"


def imported(tree: ast.AST) -> Iterator[str]:
    """The full name of every module that is imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _layers(root: Path) -> list[str]:
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    return next(
        list(contract["layers"])
        for contract in contracts
        if contract["type"] == "layers" and contract["containers"] == ["orchestrator"]
    )


def report(root: Path, *, strict: bool = False) -> tuple[str, bool]:
    """The table, and whether every number holds. A number without a limit, or a limit without a number, is an error."""
    numbers = list(House(root).numbers())
    unpaired = {number.name for number in numbers} ^ set(LIMITS)
    if unpaired:
        raise SystemExit(f"A number without a limit, or a limit without a number: {sorted(unpaired)}")
    rows = [_row(number, LIMITS[number.name], strict) for number in numbers]
    return "\n".join(row for row, _ in rows), all(holds for _, holds in rows)


def _row(number: Number, limit: Limit, strict: bool) -> tuple[str, bool]:
    name, value, where = number
    holds = value <= (limit.aim if strict else limit.held)
    text = f"{limit.aim:,}" if limit.held == limit.aim else f"{limit.aim:,} (held to {limit.held:,})"
    row = f"{name:<48}{value:>8,}  limit {text:<24}{'ok' if holds else 'FAIL'}"
    if not holds:
        row += "".join(f"\n    {place}" for place in where)
    return row, holds


if __name__ == "__main__":
    table, holds = report(ROOT, strict="--strict" in sys.argv[1:])
    print(table)
    sys.exit(not holds)
