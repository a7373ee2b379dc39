"""The table is what was measured last."""

import json

from bench.image import table


def test_the_table_is_the_results() -> None:
    report = json.loads(table.RESULTS.read_text("utf-8"))
    assert table.RESULTS.with_suffix(".md").read_text("utf-8") == table.page(report)
