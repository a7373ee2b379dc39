"""What each way of asking is counted as, beside what the engine used: by the engine's own metrics."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.metering.ways import CHAT, TEXT, Way

BUDGET = 10**9
PROMPT, ANSWER, RUNNING = "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:num_requests_running"
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Comparison:
    """Tokens of one way: as the budget lost them and the run's record has them, and as the engine's metrics have
    them."""

    way: Way
    status: int
    budget: int
    input: int | None
    output: int | None
    source: str | None
    used_input: int
    used_output: int

    @property
    def stated(self) -> bool:
        return self.source == "engine"

    @property
    def difference(self) -> int:
        """Of what the budget lost and what was used. An answer that is cut short: of what the engine had told; it works
        on for a moment until it hears that nobody listens."""
        if not self.way.cut or self.output is None:
            return self.budget - self.used_input - self.used_output
        return self.budget - self.used_input - min(self.output, self.used_output)


class Metering:
    """Asks a gateway in front of one engine, alone."""

    def __init__(self, session: aiohttp.ClientSession, gateway: str, admin_key: str, engine: str, model: str) -> None:
        self._session, self._gateway, self._engine, self._model = session, gateway, engine, model
        self._admin = {"authorization": f"Bearer {admin_key}"}
        self._key: dict[str, str] = {}

    async def measured(self, ways: Iterable[Way]) -> AsyncIterator[Comparison]:
        limits = {"budget_tokens": BUDGET, "budget_days": 366}
        body = {"name": "metering", "scopes": ["chat", "pipelines"], "limits": limits}
        async with self._session.post(f"{self._gateway}/v1/keys", json=body, headers=self._admin) as answer:
            self._key = {"authorization": f"Bearer {(await answer.json())['secret']}"}
        left, probe = await self._probe()
        for way in ways:
            before = await self._used()
            status, run_id = await self._ask(way)
            after = await self._used()
            record = await self._record(run_id)
            found, used = await self._probe()
            several = way.body.get("n") if way.path in (CHAT, TEXT) else 1
            prompts = (after[0] - before[0]) // int(several or 1)  # the engine counts a prompt for each answer
            yield Comparison(
                way=way,
                status=status,
                budget=left - probe - found,
                input=record.get("input_tokens"),
                output=record.get("output_tokens"),
                source=record.get("usage_source"),
                used_input=prompts,
                used_output=after[1] - before[1],
            )
            left, probe = found, used

    async def _ask(self, way: Way) -> tuple[int, str | None]:
        url, headers = self._gateway + way.path, {**self._key, **way.headers}
        async with self._session.post(url, json=way.body, headers=headers) as answer:
            events = 0
            async for piece in answer.content.iter_any():
                events += piece.count(b"\n\n")
                if way.leaves is not None and events >= way.leaves:
                    answer.close()
                    break
            return answer.status, answer.headers.get("x-run-id")

    async def _probe(self) -> tuple[int, int]:
        """What is left of the budget while a small request is answered, and what that one takes."""
        body = {"model": self._model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        async with self._session.post(self._gateway + CHAT, json=body, headers=self._key) as answer:
            told = await answer.json()
            if answer.status != 200:
                raise RuntimeError(f"a small request was not answered: {answer.status} {told}")
            return int(answer.headers["x-ratelimit-remaining-budget"]), told["usage"]["total_tokens"]

    async def _used(self) -> tuple[int, int]:
        """The engine's own counts, once nothing runs there."""
        while True:
            found = await self._metrics()
            if not found.get(RUNNING) and found == await self._metrics():
                return int(found[PROMPT]), int(found[ANSWER])
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _metrics(self) -> dict[str, float]:
        async with self._session.get(f"{self._engine}/metrics") as answer:
            text = await answer.text()
        found: dict[str, float] = {}
        for name, value in re.findall(r"^(vllm:\w+)(?:{[^}]*})? (\S+)$", text, re.M):
            if name in (PROMPT, ANSWER, RUNNING):
                found[name] = found.get(name, 0.0) + float(value)
        return found

    async def _record(self, run_id: str | None) -> dict[str, Any]:
        """The run's; an older path does not name it: the newest."""
        while True:
            url = f"{self._gateway}/v1/runs?limit=1" if run_id is None else f"{self._gateway}/v1/runs/{run_id}"
            async with self._session.get(url, headers=self._admin) as answer:
                found: dict[str, Any] = await answer.json()
                if answer.status == 200:
                    return found if run_id is not None else found["data"][0]
            await asyncio.sleep(_PAUSE_SECONDS)  # it is written when the request has ended
