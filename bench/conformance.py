"""What the gateway changes of an engine's answers: `python -m bench.conformance [MODELS]`.

It starts the whole studio in a temporary data directory with the small model, then asks the same of vLLM itself and of
the gateway, with a key that is no admin's. Any difference but ids and times is printed; one without a reason ends the
run with status 1. MODELS is a folder of prepared models; without it the one of the checkout.
"""

from bench import real
from bench.harness import RESULTS, table
from tests.e2e.conformance.battery import CASES
from tests.e2e.conformance.run import Verdict, compared, sides
from tests.e2e.studio import Studio

INTRODUCTION = """\
# Conformance: the gateway against the engine itself

`python -m bench.conformance` asks the same of vLLM and of the gateway in front of it (orchestrator and chat worker), \
and compares status, headers and body without ids and times.
"""


async def main(studio: Studio) -> int:
    verdicts = []
    async for verdict in compared(*await sides(studio), CASES):
        verdicts.append(verdict)
        print(_line(verdict), flush=True)
    (RESULTS / "conformance.md").write_text(report(verdicts, await real.setting(studio)))
    unexplained = [verdict.case.name for verdict in verdicts if verdict.unexplained]
    print(f"{len(verdicts)} requests, {len(unexplained)} unexplained differences: {unexplained}")
    return 1 if unexplained else 0


def _line(verdict: Verdict) -> str:
    if not verdict.differs:
        return f"same      {verdict.engine.status}  {verdict.case.name}"
    if verdict.exempt:
        return f"exempt    {verdict.gateway.status}  {verdict.case.name}: {verdict.exempt.reason}"
    return "\n  ".join([f"DIFFERS   {verdict.case.name}", *verdict.differs])


def report(verdicts: list[Verdict], setting: str) -> str:
    same = [verdict for verdict in verdicts if not verdict.differs]
    exempt = [(v.case.name, v.engine.status, v.exempt) for v in verdicts if v.exempt]
    unexplained = [verdict for verdict in verdicts if verdict.unexplained]
    unsteady = ", ".join(sorted(verdict.case.name for verdict in verdicts if verdict.unsteady)) or "never"
    reasons = [(name, status, f"{e.status} `{e.code}`", e.reason) for name, status, e in exempt]
    alike = [(v.case.name, f"`{v.case.path}`", v.engine.status) for v in same]
    return "\n".join(
        [
            INTRODUCTION,
            f"- {setting}",
            f"- {len(verdicts)} requests: {len(same)} answered alike, {len(exempt)} differ for a reason,"
            f" **{len(unexplained)} unexplained**",
            f"- the engine said two things of one request, and was asked again: {unsteady}",
            *(f"- unexplained, {v.case.name}: `{each}`" for v in unexplained for each in v.differs),
            "\n## Differences that have a reason\n",
            table(("request", "vLLM", "gateway", "why"), reasons),
            "## Answered alike\n",
            table(("request", "path", "status"), alike),
        ]
    )


if __name__ == "__main__":
    real.end(main)
