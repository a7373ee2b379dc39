"""POST /chat, /enhance and /generate in their pure form: the messages that came are the messages that go."""

import time
from collections.abc import Callable

import aiohttp
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from core import pure, untrusted
from core.errors import SoundstageError, Unavailable, UpstreamTimeout
from core.http.disconnect import until_disconnect
from core.http.relay import Relay
from core.pure import BASE, PATHS, PureAnswer, PureCall, legacy_body
from core.waiting import Places
from llm.engine import Engine
from llm.self_report import Counters
from llm.settings import ChatWorkerSettings
from llm.supervisor import Supervisor

MOST_BYTES = 16 << 20  # of one answer of the engine


class PureWorker:
    """Asks the engine of the named model. At most so many at once, and so many in line."""

    def __init__(
        self, settings: ChatWorkerSettings, supervisor: Supervisor, counters: Counters, relay: Callable[[], Relay]
    ) -> None:
        self.settings = settings
        self._supervisor = supervisor
        self._counters = counters
        self._places = Places(
            settings.llm_concurrent, waiting=settings.llm_queue, seconds=settings.llm_queue_seconds, code="worker_full"
        )
        self._relay = relay

    async def answer(self, call: PureCall, request_id: str) -> PureAnswer:
        """Raises NotFound, Unprocessable, Overloaded, Unavailable, and what the engine refuses."""
        engine = self._supervisor.find(call.request.model)
        base = call.request.model == BASE or engine.model.role == "base"
        path, body = call.for_engine(engine.model.id, base=base)
        async with self._places.hold(), self._supervisor.residency.use(engine) as url:
            self._counters.served("base" if base else engine.model.role, sfw=call.request.sfw_mode)
            started = time.perf_counter()
            answer = await self._ask(engine, str(url) + path, body, request_id)
            return call.answer(answer, call.request.model, time.perf_counter() - started)

    async def _ask(self, engine: Engine, url: str, body: bytes, request_id: str) -> bytes:
        relay = self._relay()
        headers = {
            "authorization": f"Bearer {engine.key}",
            "content-type": "application/json",
            "x-request-id": request_id,
        }
        timeout = aiohttp.ClientTimeout(total=relay.timeouts.first_byte, sock_connect=relay.timeouts.connect)
        try:
            async with relay.session.post(url, data=body, headers=headers, timeout=timeout) as response:
                answer = await untrusted.read_bytes(response, MOST_BYTES)
        except TimeoutError as exc:
            raise UpstreamTimeout("The engine took too long.", code="upstream_timeout") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise Unavailable("The engine is not reachable.", code="engine_unavailable", retry_after=2) from exc
        if response.status != 200:
            raise pure.engine_error(response.status, answer)
        return answer


def add_pure_routes(api: FastAPI, worker: PureWorker) -> None:
    """The three paths."""

    async def answer_pure(request: Request) -> Response:
        try:
            call = pure.read(request.url.path, await request.body(), worker.settings.llm_max_tokens)
            with until_disconnect(request.receive):
                answer = await worker.answer(call, request.scope["request_id"])
        except SoundstageError as exc:
            headers = {name.decode(): value.decode() for name, value in exc.headers()}
            return JSONResponse(legacy_body(exc), exc.status, headers=headers)
        return JSONResponse(answer.model_dump())

    for path in PATHS:
        api.post(path, response_model=PureAnswer)(answer_pure)
