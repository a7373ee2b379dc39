"""What the gateway changes of an engine's answers: `python -m bench.conformance [MODELS]`.

It starts the whole studio in a temporary data directory with the small model, then asks the same of vLLM itself and of
the gateway, with a key that is no admin's. Any difference but ids and times is printed; one without a reason ends the
run with status 1. MODELS is a folder of prepared models; without it the one of the checkout.
"""

import asyncio
import os
import platform
import sys
from pathlib import Path

import aiohttp

from bench.conformance.battery import CASES
from bench.conformance.run import Verdict, compared, sides
from compose import small_model
from tests.e2e.studio import ROOT, data_directory, running_studio

RESULT = ROOT / "bench" / "results" / "conformance.md"


async def main(models: Path) -> int:
    with data_directory(models) as data:
        async with running_studio(data) as studio:
            engine, gateway = await sides(studio)
            async with aiohttp.ClientSession() as session, session.get(f"{engine.base}/version") as answer:
                version = (await answer.json())["version"]
            verdicts = []
            async for verdict in compared(engine, gateway, CASES):
                verdicts.append(verdict)
                print(_line(verdict), flush=True)
    RESULT.write_text(report(verdicts, version))
    unexplained = [verdict.case.name for verdict in verdicts if verdict.unexplained]
    print(f"{len(verdicts)} requests, {len(unexplained)} unexplained differences: {unexplained}")
    return 1 if unexplained else 0


def _line(verdict: Verdict) -> str:
    if not verdict.differs:
        return f"same      {verdict.engine.status}  {verdict.case.name}"
    if verdict.allowed:
        return f"allowed   {verdict.gateway.status}  {verdict.case.name}: {verdict.allowed.reason}"
    return "\n  ".join([f"DIFFERS   {verdict.case.name}", *verdict.differs])


def report(verdicts: list[Verdict], version: str) -> str:
    same = [verdict for verdict in verdicts if not verdict.differs]
    allowed = [verdict for verdict in verdicts if verdict.allowed]
    unexplained = [verdict for verdict in verdicts if verdict.unexplained]
    unsteady = sorted(verdict.case.name for verdict in verdicts if verdict.unsteady)
    lines = [
        "# Conformance: the gateway against the engine itself\n",
        "`python -m bench.conformance` asks the same of vLLM and of the gateway in front of it (orchestrator and chat"
        " worker), and compares status, headers and body without ids and times.\n",
        f"- vLLM {version}, the small model, {platform.machine()}, {os.cpu_count()} cores",
        f"- {len(verdicts)} requests: {len(same)} answered alike, {len(allowed)} differ for a reason,"
        f" **{len(unexplained)} unexplained**",
        f"- the engine said two things of one request, and was asked again: {', '.join(unsteady) or 'never'}\n",
        "## Differences that have a reason\n",
        "| request | vLLM | gateway | why |\n|---|--:|---|---|",
    ]
    for verdict in allowed:
        assert verdict.allowed
        answer = f"{verdict.allowed.status} `{verdict.allowed.code}`"
        lines.append(f"| {verdict.case.name} | {verdict.engine.status} | {answer} | {verdict.allowed.reason} |")
    for verdict in unexplained:
        lines += [f"\n## Unexplained: {verdict.case.name}\n", *(f"- `{each}`" for each in verdict.differs)]
    lines.append("\n## Answered alike\n\n| request | path | status |\n|---|---|--:|")
    lines += [f"| {v.case.name} | `{v.case.path}` | {v.engine.status} |" for v in same]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "data" / "models"
    small_model.prepare(given)
    sys.exit(asyncio.run(main(given.resolve())))
