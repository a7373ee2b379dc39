"""Every relative link of the pages leads to a file and, where it names one, to a heading; the API's page is current."""

import re
from pathlib import Path

import pytest

from compose import api_doc

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of its headings, as they are made from them: lower case, no punctuation, a dash for each space."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link, anchor in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        target = (page.parent / link) if link else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{link}#{anchor}")
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    seen, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            ahead += [(page.parent / link).resolve() for link, _ in LINK.findall(page.read_text("utf-8")) if link]
    assert set(PAGES) <= seen


def test_the_page_of_the_api_is_what_the_orchestrator_publishes() -> None:
    assert api_doc.FILE.read_text("utf-8") == api_doc.page(api_doc.published()), "run: make docs"
