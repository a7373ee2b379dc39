"""The document's table is what was measured last."""

import json
from pathlib import Path

from bench.image import table

DOCS = Path(__file__).parents[2] / "docs" / "image.md"


def test_the_table_is_the_results() -> None:
    told, report = DOCS.read_text(), json.loads(table.RESULTS.read_text())
    assert "\n".join(table.lines(report)) in told
    assert f"{table.overhead(report)} the bare pipeline's time" in told
