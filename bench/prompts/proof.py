"""What judging, proving and recording add to a relayed request: by function, and in the orchestrator's own process."""

import hashlib
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import rfc8785

from bench.prompts.clock import timed
from bench.relay import contestants
from bench.relay.measure import Case, sample
from bench.relay.processes import free_port, load_generator, python, running
from core.json.canonical import read_messages
from orchestrator.gateway import body_texts
from orchestrator.gateway.body import peek
from orchestrator.policy.decide import Rules, decide

WORDS = ("sunday", "train", "harbour", "window", "letter", "garden", "river", "answer")
CASES = (Case("json", 16), Case("sse", 16))


@dataclass(frozen=True)
class Functions:
    """Microseconds, p50, for a body of four messages: its hash; the same by the rfc8785 library; hash and policy
    together, for texts that were seen before and texts that never were."""

    hash_us: float
    library_us: float
    seen_us: float
    new_us: float


@dataclass(frozen=True)
class Relayed:
    """Microseconds of the orchestrator's CPU a request: one that is judged, proved and recorded, and one that is only
    relayed (keys, routing, metrics, log)."""

    case: str
    proved_us: float
    relayed_us: float

    @property
    def ratio(self) -> float:
        return round(self.proved_us / self.relayed_us, 2)


def body(number: int) -> bytes:
    text = " ".join(WORDS[(number >> shift) % 8] for shift in range(24)) + f" {number}"
    turns = [{"role": "user" if at % 2 else "system", "content": f"{text} {at}"} for at in range(4)]
    return msgspec.json.encode({"model": "small", "messages": turns})


async def functions() -> Functions:
    rules, numbers = Rules(), iter(range(10**9))
    raw = msgspec.json.encode(msgspec.json.decode(body(1))["messages"])

    async def judged(number: int) -> object:
        sent = body(number)
        peek(sent)
        says = body_texts.read(sent)
        return decide(says.strings, tier=1, surface="text", rules=rules), says.messages_sha256

    async def peeked(number: int) -> object:
        return peek(body(number))

    async def ours() -> object:
        return read_messages(raw)[1]

    async def library() -> object:
        return hashlib.sha256(rfc8785.dumps(msgspec.json.decode(raw))).hexdigest()

    seen = (await timed(lambda: judged(1)))[0] - (await timed(lambda: peeked(1)))[0]
    new = (await timed(lambda: judged(next(numbers))))[0] - (await timed(lambda: peeked(next(numbers))))[0]
    figures = ((await timed(ours))[0], (await timed(library))[0], seen, new)
    return Functions(*(round(figure, 1) for figure in figures))


async def relayed(rounds: int = 5, seconds: float = 0.7) -> list[Relayed]:
    """Medians of the same orchestrator, asked in turn at a path that is judged, proved and recorded and at one that is
    not, before a stand-in engine that answers at once."""
    taken: dict[Case, tuple[list[float], list[float]]] = {case: ([], []) for case in CASES}
    with tempfile.TemporaryDirectory(prefix="bench-prompts-") as name:
        folder, port = Path(name), free_port()
        async with (
            running("engine", python("bench.relay.engine", port), port, folder) as engine,
            load_generator() as load,
            contestants.soundstage(engine, folder) as whole,
        ):
            for _ in range(rounds):
                for case, figures in taken.items():
                    for who, into in zip((whole, contestants.relay_alone(whole)), figures, strict=True):
                        into.append((await sample(who, case, load, seconds, 0.0)).cpu_us)
    return [
        Relayed(case.title, round(statistics.median(proved), 1), round(statistics.median(alone), 1))
        for case, (proved, alone) in taken.items()
    ]
