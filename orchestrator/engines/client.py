"""Engines behind the openai client: a worker is picked like for any other request, its place held while it works."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import httpx2
import msgspec
import openai
from openai import AsyncOpenAI

from core import untrusted
from core.control_tokens import Tokens
from core.errors import (
    BY_STATUS,
    InvalidRequest,
    Overloaded,
    SoundstageError,
    Unavailable,
    Upstream,
    UpstreamTimeout,
)
from core.http.relay import Relay
from core.http.transport import Transport
from core.wire.workers import Ability
from orchestrator.operate.tracing import current_trace
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.worker import Ask, Worker

log = logging.getLogger(__name__)

MAX_CLIENTS = 1024
MAX_MESSAGE = 2000  # characters of an engine's words that a caller sees
NO_KEY = "none"  # the client insists on one; a worker without a key ignores it
DECODE_SECONDS = 10.0
ASIDE_SECONDS, ASIDE_TRIES, ASIDE_PAUSE_SECONDS = 5.0, 3, 0.2

_headers: ContextVar[Mapping[str, str]] = ContextVar("headers", default=MappingProxyType({}))
"""What every request within an engine's block is sent with, where it says nothing else itself."""


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class _Detokenized(msgspec.Struct):
    prompt: str


class _Holding(msgspec.Struct):
    """What an image worker has of what an idempotency key stands for: `running`, `finished` or nothing."""

    found: str | None


class Engines:
    """Gives out clients, one for each worker asked. They call it over `transport`, else the relay's connections."""

    def __init__(self, workers: WorkerPool, relay: Relay, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._workers = workers
        self._relay = relay
        self._transport = transport
        self._clients: dict[tuple[str, str], AsyncOpenAI] = {}
        self._aside: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Engines":
        timeouts = self._relay.timeouts
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(timeouts.first_byte, connect=timeouts.connect),
            transport=self._transport or Transport(self._relay.connections),
            trust_env=False,
            event_hooks={"request": [_add_headers]},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._aside)
        await self._http.aclose()

    def aside(self, tell: Callable[[], Awaitable[object]]) -> None:
        """Tell an engine something that nobody waits for; one that is not reached is told again, a few times."""

        async def tell_until_reached() -> None:
            for _ in range(ASIDE_TRIES):
                with contextlib.suppress(openai.APIConnectionError, httpx2.HTTPError, TimeoutError):
                    async with asyncio.timeout(ASIDE_SECONDS):
                        with contextlib.suppress(openai.APIStatusError):  # it was told, and knows no such thing
                            await tell()
                        return
                await asyncio.sleep(ASIDE_PAUSE_SECONDS)

        task = asyncio.create_task(tell_until_reached())
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def control_tokens(self, model: str) -> Tokens:
        """What may not stand in a message to this model."""
        return self._workers.control_tokens(model)

    def context(self, model: str) -> int | None:
        """Its context length in tokens, where a worker of it says so."""
        return self._workers.context(model)

    async def tokens(
        self, model: str, messages: Sequence[dict[str, Any]], fields: Mapping[str, Any], request_id: str
    ) -> list[int]:
        """The tokens that the messages are to the engine, with its chat template and the `fields` that it is shown."""
        async with self.engine(model, "tokenize", request_id) as (client, name, _):
            body = {**fields, "model": name, "messages": list(messages), "add_generation_prompt": True}
            answer = await client.post(_beside(client, "tokenize"), body=body, cast_to=httpx2.Response)
        return untrusted.decoded(answer.content, _Tokenized).tokens

    async def texts(
        self, model: str | None, prompts: Sequence[list[int]], request_id: str, *, tenant: str, until: float
    ) -> list[str] | None:
        """What these token ids are to the model's own tokenizer; None where nobody says it within DECODE_SECONDS."""
        found: list[str] = []
        try:
            asked = self.engine(model, "tokenize", request_id, tenant=tenant, until=until)
            async with asyncio.timeout(DECODE_SECONDS), asked as (client, name, _):
                url = _beside(client, "detokenize")
                for ids in prompts:
                    answer = await client.post(url, body={"model": name, "tokens": ids}, cast_to=httpx2.Response)
                    found.append(untrusted.decoded(answer.content, _Detokenized).prompt)
        except (SoundstageError, TimeoutError) as exc:
            log.warning("token ids were not decoded", extra={"request_id": request_id, "why": repr(exc)[:300]})
            return None
        return found

    def model_of(self, ability: Ability, role: str | None = None) -> str | None:
        """The model of the worker that would be asked now; None where nobody could be."""
        return self._workers.pools.model_of(Ask(None, ability, role))

    async def holder(self, ability: Ability, role: str | None, headers: Mapping[str, str]) -> str | None:
        """The image worker that draws, or has drawn, what the idempotency key in `headers` stands for; None where none
        of them says so in time."""
        pool = self._workers.pools.pool(Ask(None, ability, role))
        now = time.monotonic()
        members = [worker for worker in pool.members if worker.usable(now)] if pool else []

        async def has(worker: Worker) -> bool:
            try:
                answer = await self._client(worker).post(
                    "/images/find", cast_to=httpx2.Response, options={"headers": headers, "timeout": ASIDE_SECONDS}
                )
                return untrusted.decoded(answer.content, _Holding).found is not None
            except (openai.OpenAIError, httpx2.HTTPError, Upstream):
                return False  # it is away, or no worker of ours

        found = await asyncio.gather(*(has(worker) for worker in members)) if len(members) > 1 else ()
        return next((worker.id for worker, here in zip(members, found, strict=False) if here), None)

    @contextlib.asynccontextmanager
    async def engine(
        self,
        model: str | None,
        ability: Ability,
        request_id: str,
        role: str | None = None,
        *,
        prefer: str | None = None,
        key: str | None = None,
        tenant: str = "default",
        priority: int = 0,
        until: float = math.inf,
        trace: str | None = None,
        notes: MutableMapping[str, Any] | None = None,
    ) -> AsyncIterator[tuple[AsyncOpenAI, str, str]]:
        """A client of the worker that takes this request, the model's name there, and the worker's id.

        It waits in the queue of its `tenant`, at most `until` (on the loop's clock). The worker's place is held for
        the block; the client's exceptions leave it as ours. `prefer`: the id of the worker to ask where it has room.
        """
        ask = Ask(model, ability, role, tenant, priority, until, worker=prefer, notes=notes)
        place = await self._workers.take(ask)
        worker = place.worker
        if notes is not None:
            notes["worker"] = worker.id
        trace = current_trace.get() or trace
        given = {"x-request-id": request_id, "idempotency-key": key, "traceparent": trace}
        name = worker.rewrites.get(model, model) if model else worker.first(ability)
        with place:
            before = _headers.set({header: value for header, value in given.items() if value})
            try:
                yield self._client(worker), name, worker.id
            except (openai.OpenAIError, httpx2.HTTPError) as exc:
                raise as_ours(exc) from exc
            finally:
                _headers.reset(before)

    def _client(self, worker: Worker) -> AsyncOpenAI:
        """One for each worker, whatever it is asked: a new one finds out about its machine first, on another thread."""
        at = str(worker.url.joinpath("v1")), worker.key or NO_KEY
        found = self._clients.get(at)
        if found is None:
            if len(self._clients) >= MAX_CLIENTS:  # workers that came and went
                self._clients.clear()
            url, key = at
            found = AsyncOpenAI(base_url=url, api_key=key, max_retries=0, http_client=self._http)
            self._clients[at] = found
        return found


def _beside(client: AsyncOpenAI, name: str) -> str:
    """The address of what an engine serves beside /v1."""
    return str(client.base_url).removesuffix("/").removesuffix("/v1") + f"/{name}"


async def _add_headers(request: httpx2.Request) -> None:
    for name, value in _headers.get().items():
        request.headers.setdefault(name, value)


def as_ours(exc: openai.OpenAIError | httpx2.HTTPError) -> SoundstageError:
    """The openai client's exceptions, and those of its transport once a body is read, mapped in this one place."""
    if isinstance(exc, httpx2.ConnectTimeout) or isinstance(exc.__cause__, httpx2.ConnectTimeout):
        return Unavailable("The engine is not reachable.", code="engine_unavailable", retry_after=2)
    if isinstance(exc, openai.APITimeoutError | httpx2.TimeoutException):
        return UpstreamTimeout("The engine did not answer in time.", code="upstream_timeout")
    if isinstance(exc, openai.APIConnectionError | httpx2.HTTPError):
        return Unavailable("The engine is not reachable.", code="engine_unavailable", retry_after=2)
    if not isinstance(exc, openai.APIStatusError):
        return Upstream("The engine's answer could not be read.", code="bad_upstream_answer")
    error = exc.body if isinstance(exc.body, dict) else {}
    message = str(error.get("message") or f"The engine answered {exc.status_code}.")[:MAX_MESSAGE]
    seconds = untrusted.seconds_to_wait(exc.response.headers.get("retry-after", ""))
    if exc.status_code == 429:
        return Overloaded(message, code="engine_full", retry_after=seconds)
    if exc.status_code == 503:
        return Unavailable(message, code="engine_unavailable", retry_after=seconds)
    if exc.status_code in (401, 403) or exc.status_code >= 500:
        return Upstream("The engine failed to answer.", code="engine_failed")
    kind = BY_STATUS.get(exc.status_code, InvalidRequest)
    param = error.get("param")
    return kind(
        message, code=str(error.get("code") or "engine_refused")[:200], param=str(param)[:200] if param else None
    )
