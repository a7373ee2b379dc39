"""What a second process costs, and how evenly connections spread: `python -m bench.processes [ROUNDS]`.

An orchestrator with PROCESSES=1 and one with PROCESSES=2 in front of one stand-in engine, asked in turn over 64 kept
connections, many short samples each: whatever else the machine does is then in both. CPU is that of all their
processes, parent and leashes with them; the database's own is not in it.
"""

import asyncio
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.harness import Program, Studio, chat_worker, free_port, machine, python, running, studio
from bench.load import LoadGenerator, Order, load_generator
from bench.traffic import MODEL

CONNECTIONS, SECONDS = 64, 1.0


async def main(rounds: int) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-processes-")))
        port = free_port()
        await stack.enter_async_context(running(Program("engine", python("bench.engine", port), folder, port=port)))
        load = await stack.enter_async_context(load_generator())
        studios: dict[int, Studio] = {}
        for count in (1, 2):
            own = folder / str(count)
            own.mkdir()
            worker = chat_worker("bench", port, MODEL)
            studios[count] = await stack.enter_async_context(studio(own, worker, PROCESSES=str(count)))
        await asyncio.sleep(3)  # the second process hears of the worker
        taken: dict[int, list[float]] = {count: [] for count in studios}
        print(machine())
        for _ in range(rounds):
            for count, whole in studios.items():
                cpu_us, per_second, spread = await sample(whole, load)
                taken[count].append(cpu_us)
                print(f"PROCESSES={count}: {cpu_us:.0f} us a request, {per_second:.0f} a second, connections {spread}")
        one, two = (statistics.median(taken[count]) for count in (1, 2))
        print(f"medians: {one:.0f} and {two:.0f} us a request, ratio {two / one:.2f}")


async def sample(whole: Studio, load: LoadGenerator) -> tuple[float, float, list[int]]:
    """CPU in us a request, requests a second, and how many connections each process had."""
    before = whole.program.cpu_seconds()
    order = Order(whole.program.port, whole.key, "/v1/chat/completions", "json", CONNECTIONS, SECONDS)
    running_now = asyncio.create_task(load.run(order))
    await asyncio.sleep(SECONDS / 2)
    spread = [held for process in whole.program.family() if (held := _connections(process, whole.program.port))]
    figures = await running_now
    used = whole.program.cpu_seconds() - before
    return used / figures.requests * 1e6, figures.requests / figures.seconds, spread


def _connections(process: "psutil.Process", port: int) -> int:
    return sum(each.laddr.port == port and each.status == "ESTABLISHED" for each in process.net_connections("tcp4"))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 12))
