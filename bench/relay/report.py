"""The figures as a table for a person and as JSON for a program."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.relay.measure import Case, Sample, Samples, median

OURS, ALONE, DIRECT, FLOOR = "Soundstage", "Soundstage, relay alone", "direct", "bare ASGI + aiohttp"
FLOOR_WHERE_BUDGETS_WERE_SET = {"json": 119, "sse": 159}
"""µs a request of the barest relay on the machine for which the design's budgets were written."""


@dataclass(frozen=True)
class Budget:
    what: str
    limit: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Report:
    """`missing`: a peer's title -> why it is not in the tables."""

    machine: Mapping[str, str]
    rounds: int
    seconds: float
    found: Mapping[Case, Samples]
    missing: Mapping[str, str]

    def medians(self, case: Case) -> dict[str, Sample]:
        return {title: median(samples) for title, samples in self.found[case].items()}

    def json(self) -> dict[str, Any]:
        cases = [
            {
                "kind": case.kind,
                "concurrency": case.concurrency,
                "contestants": {
                    title: {"median": asdict(median(samples)), "rounds": [asdict(s) for s in samples]}
                    for title, samples in contestants.items()
                },
            }
            for case, contestants in self.found.items()
        ]
        return {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "seconds_a_sample": self.seconds,
            "missing": dict(self.missing),
            "budgets": [asdict(budget) for budget in budgets(self)],
            "cpu_us_scaled": self.scaled(),
            "cases": cases,
        }

    def markdown(self) -> str:
        lines = ["# The relay", "", INTRODUCTION, ""]
        lines += [f"- {name}: {value}" for name, value in self.machine.items()]
        lines += [f"- medians of {self.rounds} rounds, {self.seconds:g} s a sample"]
        lines += [f"- not measured: {title} ({why})" for title, why in self.missing.items()]
        for case in self.found:
            lines += ["", f"## {case.title}", "", *self._table(case)]
        lines += ["", "## Budgets", "", "| budget | limit | measured | holds |", "|---|---|---|---|"]
        lines += [f"| {b.what} | {b.limit} | {b.measured} | {'yes' if b.holds else 'no'} |" for b in budgets(self)]
        lines += [
            "",
            "For a machine as fast as the one the budgets were set on, by the bare relay's figures there:",
            "",
        ]
        lines += [f"- {name}: {us:.0f} µs" for name, us in self.scaled().items()]
        return "\n".join(lines) + "\n"

    def scaled(self) -> dict[str, float]:
        """Our CPU at concurrency 16 on such a machine, if the bare relay's share of it stays the same."""
        json_16, sse_16 = self.medians(Case("json", 16)), self.medians(Case("sse", 16))
        return {
            f"{kind}, {title}": round(
                medians[title].cpu_us * FLOOR_WHERE_BUDGETS_WERE_SET[kind] / medians[FLOOR].cpu_us, 1
            )
            for kind, medians in (("json", json_16), ("sse", sse_16))
            for title in (ALONE, OURS)
        }

    def _table(self, case: Case) -> list[str]:
        medians = self.medians(case)
        ours = medians[OURS].cpu_us
        lines = [
            "| | CPU, µs a request | CPU, Soundstage = 1 | p50, ms | added p50, ms | requests/s | reads an answer |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for title, m in medians.items():
            proxy = title != DIRECT
            cpu, ratio = (f"{m.cpu_us:,.0f}", f"{m.cpu_us / ours:.2f}") if proxy else ("", "")
            added = f"{m.added_ms:.2f}" if proxy else ""
            lines.append(
                f"| {title} | {cpu} | {ratio} | {m.p50_ms:.2f} | {added} | {m.per_second:,.0f} | {m.reads:.1f} |"
            )
        return lines


INTRODUCTION = """\
What it costs to stand between a caller and an engine. Soundstage is the whole orchestrator: keys, limits, admission,
routing, retries, timeouts, policy, proof, run records in Postgres, metrics, access log. `Soundstage, relay alone` is
the same process asked at `/v1/embeddings`, which has no judging, proof or run record. `bare ASGI + aiohttp` relays
and does nothing else, so it is the floor of the same Python. CPU is user and system time of the proxy's process and
its children; the database server's own is not in it. The engine behind is a stand-in that answers at once; no two
requests say the same. `direct` is the engine without a proxy. Run it: `.venv/bin/python -m bench.relay --peers`."""


def budgets(report: Report) -> list[Budget]:
    """Those of the design, against the medians. CPU at concurrency 16, latency at 1."""
    json_16, sse_16 = report.medians(Case("json", 16)), report.medians(Case("sse", 16))
    json_1, sse_1 = report.medians(Case("json", 1)), report.medians(Case("sse", 1))
    found = [
        _at_most("relay alone, CPU of a JSON request", json_16[ALONE].cpu_us, 150, "µs"),
        _at_most("relay alone, CPU of an SSE request of 22 events", sse_16[ALONE].cpu_us, 200, "µs"),
        _at_most("CPU of a JSON request", json_16[OURS].cpu_us, 150, "µs"),
        _at_most("CPU of an SSE request of 22 events", sse_16[OURS].cpu_us, 200, "µs"),
        _at_most("added p50 at concurrency 1, JSON", json_1[OURS].added_ms, 0.5, "ms"),
        _at_most("added p50 at concurrency 1, SSE", sse_1[OURS].added_ms, 0.5, "ms"),
    ]
    for title in json_16:
        if title.startswith("LiteLLM"):
            for kind, medians in (("JSON", json_16), ("SSE", sse_16)):
                ratio = medians[title].cpu_us / medians[OURS].cpu_us
                found.append(Budget(f"LiteLLM's CPU over ours, {kind}", "≥ 50", f"{ratio:.0f}", ratio >= 50))
        if title.startswith("vllm-router"):
            ratio = sse_16[OURS].cpu_us / sse_16[title].cpu_us
            found.append(Budget("our CPU over vllm-router's, SSE", "≤ 1.1", f"{ratio:.2f}", ratio <= 1.1))
    return found


def _at_most(what: str, measured: float, limit: float, unit: str) -> Budget:
    text = f"{measured:.2f} {unit}" if unit == "ms" else f"{measured:.0f} {unit}"
    return Budget(what, f"≤ {limit:g} {unit}", text, measured <= limit)
