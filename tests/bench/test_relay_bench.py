"""The relay's bench runs and reports; what it measures is for people to read, not for a test."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from bench.relay.measure import CASES

pytestmark = pytest.mark.e2e
OURS = ["direct", "Soundstage", "Soundstage, relay alone", "FastAPI + httpx", "bare ASGI + aiohttp"]


async def test_a_tiny_run_reports_every_case_and_contestant(tmp_path: Path) -> None:
    arguments = ("--rounds", "1", "--seconds", "0.05", "--out", str(tmp_path))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.relay", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()

    report = json.loads((tmp_path / "relay.json").read_text())
    assert [(case["kind"], case["concurrency"]) for case in report["cases"]] == [(c.kind, c.concurrency) for c in CASES]
    for case in report["cases"]:
        assert list(case["contestants"]) == OURS
        for figures in case["contestants"].values():
            assert len(figures["cpu_us_of_rounds"]) == 1
            assert set(figures["median"]) == {"cpu_us", "p50_ms", "p99_ms", "added_ms", "per_second", "reads"}
    assert {"CPU", "cores", "Python"} <= set(report["machine"])
    assert all(set(budget) == {"what", "limit", "measured", "holds"} for budget in report["budgets"])
    table = (tmp_path / "relay.md").read_text()
    assert all(f"| {title} |" in table for title in OURS)
