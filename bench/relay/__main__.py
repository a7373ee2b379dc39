"""What a relayed request costs: `.venv/bin/python -m bench.relay [--rounds N] [--seconds N] [--out DIR] [--peers]`.

CPU a request and added latency of the orchestrator, beside no proxy, the obvious FastAPI + httpx proxy, the barest
Python relay and, with --peers, vllm-router and LiteLLM's proxy (installed once, each in its own environment).
"""

import argparse
import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.harness import RESULTS, BenchError, Program, free_port, machine, python, running, save
from bench.load import load_generator
from bench.relay import contestants
from bench.relay.measure import take
from bench.relay.peers import install
from bench.relay.report import figures, page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="also vllm-router and LiteLLM's proxy")
    parser.add_argument("--rounds", type=int, default=7, help="rounds whose medians are kept (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one sample (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for relay.json and relay.md")
    given = parser.parse_args()
    kept = asyncio.run(measured(given.rounds, given.seconds, with_peers=given.peers))
    print(page(kept))
    save("relay", kept, page(kept), given.out)


async def measured(rounds: int, seconds: float, *, with_peers: bool) -> dict[str, Any]:
    """Start everyone, measure in rounds, stop everyone. A peer that does not start is said to be missing."""
    facts = machine()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-relay-")))
        port = free_port()
        engine = await stack.enter_async_context(
            running(Program("engine", python("bench.engine", port), folder, port=port))
        )
        load = await stack.enter_async_context(load_generator())
        entered = [await stack.enter_async_context(start(engine, folder)) for start in contestants.OURS]
        entered.insert(2, contestants.relay_alone(entered[1]))
        for peer, start in contestants.PEERS if with_peers else ():
            try:
                install(peer)
                entered.append(await stack.enter_async_context(start(engine, folder)))
                facts[peer.title] = peer.version
            except BenchError as exc:
                facts[peer.title] = f"not measured: {exc}"
        return figures(facts, rounds, seconds, await take(entered, load, rounds, seconds))


if __name__ == "__main__":
    main()
