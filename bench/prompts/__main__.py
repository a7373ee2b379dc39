"""Measure what prompts as data cost: `.venv/bin/python -m bench.prompts [--quick]`.

Ten thousand recipes kept, resolved and rendered; the proof on a relayed request. Takes about a minute; results go to
bench/results/prompts.md and prompts.json.
"""

import argparse
import asyncio
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.prompts import proof, recipes
from bench.relay import machine
from core.db.embedded import embedded_postgres
from core.db.migrate import migrate
from core.db.pool import open_pool

RESULTS = Path(__file__).resolve().parent.parent / "results"
BUDGET_US = 100.0
INTRODUCTION = """\
Prompts are rows in Postgres, looked up once for each epoch, compiled once, rendered for each request; every relayed
request is judged, proved and recorded. `relayed only` is the same process at a path where it does none of the three.
CPU is user and system time of the orchestrator's process and its children, the database server's own left out.
Run it: `.venv/bin/python -m bench.prompts`."""


@dataclass(frozen=True)
class Report:
    machine: dict[str, str]
    number: int
    kept: recipes.Kept
    resolved: recipes.Resolved
    functions: proof.Functions
    relayed: list[proof.Relayed]

    def json(self) -> str:
        relayed = [{**asdict(entry), "ratio": entry.ratio} for entry in self.relayed]
        holds = self.resolved.p50_us <= BUDGET_US
        budget = {"what": "resolve and render, p50 in µs", "limit": BUDGET_US, "holds": holds}
        return json.dumps({**asdict(self), "relayed": relayed, "budget": budget}, indent=1) + "\n"

    def markdown(self) -> str:
        kept, found, micro = self.kept, self.resolved, self.functions
        verdict = "holds" if found.p50_us <= BUDGET_US else "does not hold"
        copied = self.number - recipes.SAVED
        rows = [
            ("resolve + render, cached, 4 messages, p50", f"{found.p50_us:.1f} µs (budget {BUDGET_US:g}: {verdict})"),
            ("the same, p99", f"{found.p99_us:.1f} µs"),
            ("four bare Jinja renders of the same texts, p50", f"{found.bare_us:.1f} µs"),
            ("ours over bare Jinja", f"{found.p50_us / found.bare_us:.2f} ×"),
            ("one recipe saved: checked, tried out, kept", f"{kept.saved_ms:.1f} ms"),
            (
                f"{self.number:,} recipes loaded, each with its constraints, triggers and audit entries",
                f"{kept.seconds:.1f} s ({copied / kept.seconds:,.0f} a second)",
            ),
            (f"{found.number:,} of them resolved and compiled for the first time, each", f"{found.first_ms:.2f} ms"),
            (f"these {found.number:,} compiled, in memory", f"{found.megabytes:,.0f} MB"),
            ("messages hash of a relayed request, p50", f"{micro.hash_us:.1f} µs"),
            ("the same by the rfc8785 library", f"{micro.library_us:.1f} µs"),
            ("hash and policy, texts seen before", f"{micro.seen_us:.1f} µs"),
            ("hash and policy, texts never seen", f"{micro.new_us:.1f} µs"),
        ]
        lines = ["# Prompts", "", INTRODUCTION, "", *(f"- {name}: {value}" for name, value in self.machine.items())]
        lines += ["", "| | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows), ""]
        lines += ["| CPU, µs a request | judged, proved, recorded | relayed only | ratio |", "|---|--:|--:|--:|"]
        lines += [f"| {e.case} | {e.proved_us:,.0f} | {e.relayed_us:,.0f} | {e.ratio:.2f} × |" for e in self.relayed]
        return "\n".join(lines) + "\n"


async def measured(number: int, rounds: int) -> Report:
    facts = machine.facts()
    functions, relayed = await proof.functions(), await proof.relayed(rounds)
    with tempfile.TemporaryDirectory(prefix="bench-prompts-") as folder:
        async with embedded_postgres(Path(folder) / "postgres") as dsn:
            await migrate(dsn)
            async with open_pool(dsn) as pool:
                kept = await recipes.keep(pool, number)
                resolved = await recipes.resolve(pool, number)
    facts["load after the run"] = machine.load()
    return Report(facts, number, kept, resolved, functions, relayed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.prompts", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="500 recipes, one round; nothing is saved")
    parser.add_argument("--out", type=Path, help="folder for prompts.json and prompts.md")
    given = parser.parse_args()
    report = asyncio.run(measured(500, 1) if given.quick else measured(recipes.RECIPES, 5))
    print(report.markdown())
    out: Path | None = given.out or (None if given.quick else RESULTS)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "prompts.json").write_text(report.json())
        (out / "prompts.md").write_text(report.markdown())


if __name__ == "__main__":
    main()
