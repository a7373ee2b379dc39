"""The battery against the engine itself and through the gateway, one request at a time."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp

from bench.conformance.allowed import Allowed, explained
from bench.conformance.battery import Case
from bench.conformance.compare import Answer, answered, differences
from tests.e2e.studio import Studio

TRIES = 3


@dataclass(frozen=True)
class Side:
    base: str  # an address without a path
    key: str


@dataclass(frozen=True)
class Verdict:
    """`differs` is empty where both said the same; `allowed` is why they may not. `unsteady`: how often the engine
    differed from itself before it said one thing twice."""

    case: Case
    engine: Answer
    gateway: Answer
    differs: list[str]
    allowed: Allowed | None
    unsteady: int

    @property
    def unexplained(self) -> bool:
        return bool(self.differs) and self.allowed is None


async def sides(studio: Studio) -> tuple[Side, Side]:
    """vLLM as the chat worker runs it, and the gateway with a plain key."""
    engine = Side(f"http://127.0.0.1:{studio.engine_port()}", studio.engine().environ()["VLLM_API_KEY"])
    base = studio.base_url.removesuffix("/v1")
    plain = {"name": "conformance", "scopes": ["chat"]}
    async with studio.session() as session, session.post(f"{base}/v1/keys", json=plain) as answer:
        answer.raise_for_status()
        return engine, Side(base, (await answer.json())["secret"])


async def compared(engine: Side, gateway: Side, cases: Sequence[Case]) -> AsyncIterator[Verdict]:
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for case in cases:
            yield await _one(session, engine, gateway, case)


async def _one(session: aiohttp.ClientSession, engine: Side, gateway: Side, case: Case) -> Verdict:
    """An engine that says two things of one request (its prefix cache was cold, or a batch was cut otherwise) is asked
    again: a difference counts where the engine said the same before and after the gateway."""
    before = await answered(session, engine.base, engine.key, case)
    for unsteady in range(TRIES):
        through = await answered(session, gateway.base, gateway.key, case)
        differs = differences(before, through)
        if not differs:
            return Verdict(case, before, through, [], None, unsteady)
        after = await answered(session, engine.base, engine.key, case)
        if not differences(before, after):
            break
        before = after
    return Verdict(case, before, through, differs, explained(case.name, through), unsteady)
