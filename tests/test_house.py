"""`python -m tests.house`: the code's numbers hold, and each is seen to break."""

from pathlib import Path

import pytest

from tests.house import APART, LIMITS, PRODUCT, ROOT, report

PYPROJECT = """
[[tool.importlinter.contracts]]
type = "layers"
containers = ["orchestrator"]
layers = ["app", "jobs", "settings"]
"""
PAGE = """
## Story 1: a relayed request
`core/shell.py` and `core/shell.py` again.
## Story 2: a recipe
`prompts/render.py`
## Story 3: an image step
`image/engine.py`
## Rules
`core/not_in_a_story.py`
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small tree in which every number holds."""
    for folder in (*PRODUCT, *APART, "docs"):
        (tmp_path / folder).mkdir()
    for name in ("core/shell", "orchestrator/app", "orchestrator/jobs", "orchestrator/settings"):
        (tmp_path / f"{name}.py").write_text("def run() -> None: ...\n")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "docs" / "architecture.md").write_text(PAGE)
    return tmp_path


def failing(root: Path) -> set[str]:
    table, holds = report(root, strict=True)
    lines = {line[:48].rstrip() for line in table.splitlines() if "FAIL" in line}
    assert holds == (not lines)
    return lines


def test_this_house_holds() -> None:
    table, holds = report(ROOT)
    assert holds, table


def test_no_number_is_held_below_its_aim() -> None:
    assert [name for name, limit in LIMITS.items() if limit.held < limit.aim] == []


def test_every_number_of_a_small_tree_holds(house: Path) -> None:
    assert failing(house) == set()


@pytest.mark.parametrize(
    ("number", "file", "text"),
    [
        ("product lines", "core/long.py", "\n" * 29_001),
        ("training lines", "training/long.py", "\n" * 1_801),
        ("bench lines", "bench/long.py", "\n" * 4_001),
        ("longest file, lines", "core/long.py", "\n" * 301),
        ("longest function, lines", "core/long.py", "def long() -> None:\n" + "    print()\n" * 60),
        (
            "arrows up in the orchestrator",
            "orchestrator/settings.py",
            "def late() -> None:\n    from orchestrator import jobs",
        ),
        ("vague names of classes and modules", "core/names.py", "class _Told: ..."),
        ("vague names of classes and modules", "image/desk.py", ""),
        (
            "files on the way of story 1, a relayed request",
            "docs/architecture.md",
            PAGE.replace("`core/shell.py`", " ".join(f"`llm/{name}.py`" for name in "abcdefghijklm"), 1),
        ),
    ],
)
def test_a_number_over_its_limit_fails(house: Path, number: str, file: str, text: str) -> None:
    (house / file).write_text(text)
    assert number in failing(house)


def test_long_files_raise_the_median(house: Path) -> None:
    for name in "abcdef":
        (house / "core" / f"{name}.py").write_text("\n" * 121)
    assert failing(house) == {"median file, lines"}


def test_folders_and_floors_of_the_orchestrator_are_counted(house: Path) -> None:
    rooms = [f"room{number}" for number in range(13)]
    (house / "pyproject.toml").write_text(PYPROJECT.replace('["app", "jobs", "settings"]', repr(rooms)))
    for room, below in zip(rooms, [*rooms[1:], "nothing"], strict=True):
        (house / "orchestrator" / room).mkdir()
        (house / "orchestrator" / room / "work.py").write_text(f"from orchestrator.{below}.work import work\n")
    assert failing(house) == {"orchestrator folders", "orchestrator floors"}
