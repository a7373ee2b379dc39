"""What is counted beside what the engine used: `python -m bench.metering [MODELS]`.

It starts the whole studio in a temporary data directory with the small model, asks in every way of ways.py with a key
that has a budget, and reads three counts of each: what the budget lost, what the run's record says, and how far vLLM's
own metrics moved. Any difference where the engine states its usage ends the run with status 1.
"""

import asyncio
import os
import platform
import sys
from pathlib import Path

import aiohttp

from bench.metering.measure import Counted, Metering
from bench.metering.ways import ways
from compose import small_model
from tests.e2e.studio import ROOT, data_directory, running_studio

RESULT = ROOT / "bench" / "results" / "metering.md"
MODEL = "qwen_instruct"


async def main(models: Path) -> int:
    found = []
    with data_directory(models) as data:
        async with running_studio(data) as studio, aiohttp.ClientSession() as session:
            engine = f"http://127.0.0.1:{studio.engine_port()}"
            async with session.get(f"{engine}/version") as answer:
                version = (await answer.json())["version"]
            metering = Metering(session, studio.base_url.removesuffix("/v1"), studio.key, engine, MODEL)
            async for counted in metering.measured(ways(MODEL)):
                found.append(counted)
                print(_line(counted), flush=True)
    RESULT.write_text(report(found, version))
    wrong = [each.way.name for each in found if each.stated and each.difference]
    print(f"{len(found)} ways, {len(wrong)} differences where the engine states its usage: {wrong}")
    return 1 if wrong else 0


def _line(each: Counted) -> str:
    used = f"{each.used_input} + {each.used_output}"
    told = f"{each.input} + {each.output} ({each.source})"
    return f"{each.status}  {each.way.name}: counted {each.budget}, recorded {told}, used {used}"


def report(found: list[Counted], version: str) -> str:
    stated = [each for each in found if each.stated]
    wrong = [each for each in stated if each.difference]
    lines = [
        "# Metering: what is counted beside what the engine used\n",
        "`python -m bench.metering` asks a gateway with one engine in every way and reads, of each, what the key's"
        " budget lost, what the run's record says, and how far vLLM's own metrics moved (`vllm:prompt_tokens_total`,"
        " which counts a prompt once for each answer, so it is divided by `n`; `vllm:generation_tokens_total`).\n",
        f"- vLLM {version}, the small model, {platform.machine()}, {os.cpu_count()} cores",
        f"- {len(found)} ways; the engine states its usage in {len(stated)}: **{len(wrong)} differences**",
        f"- estimated, and recorded as such: {', '.join(e.way.name for e in found if not e.stated) or 'none'}",
        "- where an answer is cut short, counted is what the engine had said when it was cut; it works on until it"
        " hears of it, which `used` shows\n",
        "| way | status | counted | recorded | by whom | used |\n|---|--:|--:|--:|---|--:|",
    ]
    for each in found:
        recorded, used = f"{each.input} + {each.output}", f"{each.used_input} + {each.used_output}"
        lines.append(f"| {each.way.name} | {each.status} | {each.budget} | {recorded} | {each.source} | {used} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "data" / "models"
    small_model.prepare(given)
    sys.exit(asyncio.run(main(given.resolve())))
