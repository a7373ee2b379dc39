"""The figures as a page, and the design's budgets against them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.harness import table
from bench.relay.measure import Case, Sample, median

OURS, ALONE, DIRECT, FLOOR = "Soundstage", "Soundstage, relay alone", "direct", "bare ASGI + aiohttp"
INTRODUCTION = """\
What it costs to stand between a caller and an engine. Soundstage is the whole orchestrator: keys, limits, admission,
routing, retries, timeouts, policy, proof, run records in Postgres, metrics, access log. `Soundstage, relay alone` is
the same process asked at `/v1/embeddings`, which has no judging, proof or run record. `bare ASGI + aiohttp` relays
and does nothing else, so it is the floor of the same Python. CPU is user and system time of the proxy's process and
its children; the database server's own is not in it. The engine behind is a stand-in that answers at once; no two
requests say the same. `direct` is the engine without a proxy. Run it: `.venv/bin/python -m bench.relay --peers`."""
HEAD = ("", "CPU, µs a request", "CPU, Soundstage = 1", "p50, ms", "added p50, ms", "requests/s", "reads an answer")


def figures(
    machine: Mapping[str, str], rounds: int, seconds: float, found: Mapping[Case, Mapping[str, list[Sample]]]
) -> dict[str, Any]:
    """What is kept. Of the rounds the CPU alone."""
    cases = [
        {
            "kind": case.kind,
            "concurrency": case.concurrency,
            "contestants": {
                title: {"median": asdict(median(samples)), "cpu_us_of_rounds": [one.cpu_us for one in samples]}
                for title, samples in contestants.items()
            },
        }
        for case, contestants in found.items()
    ]
    kept = {"machine": dict(machine), "rounds": rounds, "seconds_a_sample": seconds, "cases": cases}
    return {**kept, "budgets": budgets(kept)}


def page(kept: Mapping[str, Any]) -> str:
    lines = ["# The relay", "", INTRODUCTION, "", *(f"- {name}: {value}" for name, value in kept["machine"].items())]
    lines += [f"- medians of {kept['rounds']} rounds, {kept['seconds_a_sample']:g} s a sample", ""]
    for case in kept["cases"]:
        medians = {title: each["median"] for title, each in case["contestants"].items()}
        lines += [f"## {Case(case['kind'], case['concurrency']).title}", "", _table(medians)]
    rows = [(b["what"], b["limit"], b["measured"], "yes" if b["holds"] else "no") for b in kept["budgets"]]
    return "\n".join([*lines, "## Budgets", "", table(("budget", "limit", "measured", "holds"), rows)])


def _table(medians: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for title, m in medians.items():
        cpu, ratio = f"{m['cpu_us']:,.0f}", f"{m['cpu_us'] / medians[OURS]['cpu_us']:.2f}"
        proxy = (cpu, ratio, f"{m['p50_ms']:.2f}", f"{m['added_ms']:.2f}")
        shown = ("", "", proxy[2], "") if title == DIRECT else proxy
        rows.append((title, *shown, f"{m['per_second']:,.0f}", f"{m['reads']:.1f}"))
    return table(HEAD, rows)


def budgets(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of the design: CPU at concurrency 16 as ratios, latency at 1."""
    found = {(case["kind"], case["concurrency"]): case["contestants"] for case in kept["cases"]}

    def median_of(kind: str, concurrency: int, title: str, name: str = "cpu_us") -> float:
        return float(found[kind, concurrency][title]["median"][name])

    def cpu(kind: str, over: str, under: str) -> float:
        return median_of(kind, 16, over) / median_of(kind, 16, under)

    checks = [
        ("CPU of a JSON request over the bare relay's", cpu("json", OURS, FLOOR), 1.6, "≤"),
        ("the same, relay alone", cpu("json", ALONE, FLOOR), 1.6, "≤"),
        ("CPU of a paced SSE request over the bare relay's", cpu("sse-paced", OURS, FLOOR), 1.35, "≤"),
        ("added p50 at concurrency 1, JSON, ms", median_of("json", 1, OURS, "added_ms"), 0.3, "≤"),
        ("added p50 at concurrency 1, SSE, ms", median_of("sse", 1, OURS, "added_ms"), 0.3, "≤"),
    ]
    for title in found["json", 16]:
        if title.startswith("LiteLLM"):
            checks.append(("LiteLLM's CPU over ours, JSON", cpu("json", title, OURS), 40, "≥"))
        if title.startswith("vllm-router"):
            checks.append(("CPU of an SSE request over vllm-router's", cpu("sse", OURS, title), 1.1, "≤"))
    return [
        {
            "what": what,
            "limit": f"{sign} {limit:g}",
            "measured": f"{value:.2f}",
            "holds": value <= limit if sign == "≤" else value >= limit,
        }
        for what, value, limit, sign in checks
    ]
