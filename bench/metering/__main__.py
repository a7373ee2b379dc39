"""What is counted beside what the engine used: `python -m bench.metering [MODELS]`.

It starts the whole studio in a temporary data directory with the small model, asks in every way of ways.py with a key
that has a budget, and reads three counts of each: what the budget lost, what the run's record says, and how far vLLM's
own metrics moved. Any difference where the engine states its usage ends the run with status 1.
"""

import aiohttp

from bench import real
from bench.harness import RESULTS, table
from bench.metering.measure import Comparison, Metering
from bench.metering.ways import ways
from tests.e2e.studio import Studio

MODEL = "qwen_instruct"
INTRODUCTION = """\
# Metering: what is counted beside what the engine used

`python -m bench.metering` asks a gateway with one engine in every way and reads, of each, what the key's budget lost, \
what the run's record says, and how far vLLM's own metrics moved (`vllm:prompt_tokens_total`, which counts a prompt \
once for each answer, so it is divided by `n`; `vllm:generation_tokens_total`). Where an answer is cut short, counted \
is what the engine had said when it was cut; it works on until it hears of it, which `used` shows.
"""
HEAD = ("way", "status", "counted", "recorded", "by whom", "used")


async def main(studio: Studio) -> int:
    found = []
    async with aiohttp.ClientSession() as session:
        engine, gateway = f"http://127.0.0.1:{studio.engine_port()}", studio.base_url.removesuffix("/v1")
        async for counted in Metering(session, gateway, studio.key, engine, MODEL).measured(ways(MODEL)):
            found.append(counted)
            print(*row(counted), sep="  ", flush=True)
    wrong = [each.way.name for each in found if each.stated and each.difference]
    (RESULTS / "metering.md").write_text(report(found, len(wrong), await real.setting(studio)))
    print(f"{len(found)} ways, {len(wrong)} differences where the engine states its usage: {wrong}")
    return 1 if wrong else 0


def row(each: Comparison) -> tuple[object, ...]:
    recorded, used = f"{each.input} + {each.output}", f"{each.used_input} + {each.used_output}"
    return each.way.name, each.status, each.budget, recorded, each.source, used


def report(found: list[Comparison], wrong: int, setting: str) -> str:
    estimated = [each.way.name for each in found if not each.stated]
    facts = [
        f"- {setting}",
        f"- {len(found)} ways; the engine states its usage in {len(found) - len(estimated)}: **{wrong} differences**",
        f"- estimated, and recorded as such: {', '.join(estimated) or 'none'}",
    ]
    return "\n".join([INTRODUCTION, *facts, "", table(HEAD, map(row, found))])


if __name__ == "__main__":
    real.end(main)
