"""Measure the relay: `.venv/bin/python -m bench.relay [--quick] [--peers]`.

CPU a request and added latency of the orchestrator, beside no proxy, the obvious FastAPI + httpx proxy, the barest
Python relay and, with --peers, vllm-router and LiteLLM's proxy (installed once, each in its own environment).
"""

import argparse
import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from bench.relay import contestants, machine, peers
from bench.relay.measure import take
from bench.relay.processes import BenchError, free_port, load_generator, python, running
from bench.relay.report import Report

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds of half a second; nothing is saved")
    parser.add_argument("--peers", action="store_true", help="also vllm-router and LiteLLM's proxy")
    parser.add_argument("--rounds", type=int, help="rounds whose medians are kept (default 7)")
    parser.add_argument("--seconds", type=float, help="length of one sample (default 2)")
    parser.add_argument("--out", type=Path, help="folder for relay.json and relay.md")
    given = parser.parse_args()
    rounds, seconds = given.rounds or (3 if given.quick else 7), given.seconds or (0.5 if given.quick else 2.0)
    report = asyncio.run(measured(rounds, seconds, with_peers=given.peers))
    print(report.markdown())
    out: Path | None = given.out or (None if given.quick else RESULTS)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "relay.json").write_text(json.dumps(report.json(), indent=1) + "\n")
        (out / "relay.md").write_text(report.markdown())


async def measured(rounds: int, seconds: float, *, with_peers: bool) -> Report:
    """Start everyone, measure in rounds, stop everyone. A peer that does not start is reported as missing."""
    facts, missing = machine.facts(), {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-relay-")))
        port = free_port()
        engine = await stack.enter_async_context(running("engine", python("bench.relay.engine", port), port, folder))
        load = await stack.enter_async_context(load_generator())
        entered = [await stack.enter_async_context(start(engine, folder)) for start in contestants.OURS]
        entered.insert(2, contestants.relay_alone(entered[1]))
        for peer, start in contestants.PEERS if with_peers else ():
            try:
                _require(peer)
                entered.append(await stack.enter_async_context(start(engine, folder)))
                facts[peer.title] = peer.version
            except BenchError as exc:
                print(f"{peer.title}: {exc}", flush=True)
                missing[peer.title] = "could not be installed or started here"
        found = await take(entered, load, rounds, seconds, lambda text: print(text, flush=True))
    facts["load after the run"] = machine.load()
    return Report(facts, rounds, seconds, found, missing)


def _require(peer: peers.Peer) -> None:
    reason = peers.install(peer)
    if reason is not None:
        raise BenchError(f"not installed: {reason}")


if __name__ == "__main__":
    main()
