"""The documents name what exists, and what is generated is up to date."""

import re
from pathlib import Path

import pytest

from compose import settings_doc

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (
    "core",
    "placement",
    "training",
    "llm",
    "image",
    "vision",
    "prompts",
    "orchestrator",
    "compose",
    "tests",
    "docs",
    "bench",
    "training",
)
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`")
LINK = re.compile(r"\]\(((?!http)[^)#]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    named = PATH.findall(text)
    linked = [str((page.parent / link).relative_to(ROOT)) for link in LINK.findall(text)]
    assert [name for name in [*named, *linked] if not (ROOT / name).exists()] == []


def test_every_file_that_moved_is_where_the_page_says() -> None:
    text = (ROOT / "docs" / "moved.md").read_text("utf-8")
    rows = re.findall(r"^(\S+/\S*) +(\S+/\S*)$", text, re.M)
    assert len(rows) > 100
    assert [new for _, new in rows if not (ROOT / new).exists()] == []


def test_the_page_of_settings_is_what_the_code_says() -> None:
    assert settings_doc.FILE.read_text("utf-8") == settings_doc.page(), "run: make docs"


def test_readme_shows_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert "$ make up " in text
    assert "$ make test " in text
