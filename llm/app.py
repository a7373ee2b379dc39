"""The chat worker: `/v1/*` relayed to the engine of the named model, and what the worker says of itself."""

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import msgspec
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from core.errors import InvalidRequest, Overloaded, Unavailable
from core.http.body import read_body
from core.http.connections import Answer
from core.http.disconnect import until_disconnect
from core.http.end_to_end import RawHeaders, request_headers
from core.http.relay import Relay, Timeouts
from core.http.shell import Shell
from core.json.canonical import read_messages, read_responses
from core.json.size import aside, is_heavy
from core.json.text import decoded
from core.keyed_calls import Bounds
from core.registration import registrar_of
from core.service import Readiness, create_service
from core.watchers import Watchers
from core.wire.workers import Announcement
from core.worker_key import worker_key_check
from llm import edge_registration
from llm.catalogue import Model
from llm.engine import Engine
from llm.pure import PureWorker, add_pure_routes
from llm.repeats import Repeats
from llm.routes import add_own_routes
from llm.self_report import Counters, SelfReport
from llm.settings import ChatWorkerSettings
from llm.supervisor import Supervisor

DETOKENIZE = "/detokenize"
RELAYED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", DETOKENIZE)


class _Peek(msgspec.Struct):
    """What a worker reads of a body; the bytes themselves pass unchanged."""

    model: str | None = None
    sfw_mode: bool | None = None
    messages: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()


class _Ids(msgspec.Struct):
    """A tokenizer fails of an id that its integers cannot hold, and so does the engine: that is the caller's fault."""

    tokens: list[Annotated[int, msgspec.Meta(ge=0, lt=2**31)]]


_ids = msgspec.json.Decoder(_Ids).decode


class ChatWorker:
    """Relays a request to its engine. Holds the requests in flight, which are bounded."""

    def __init__(self, settings: ChatWorkerSettings, models: Sequence[Model], timeouts: Timeouts | None = None) -> None:
        self.settings = settings
        self.relay = Relay(timeouts)
        self.watchers = Watchers()
        self.counters = Counters()
        self.registrar = registrar_of(settings, self.announce)
        self.supervisor = Supervisor(models, settings, lambda: self.relay.session, on_change=self._changed)
        self._id = f"chat-{secrets.token_hex(6)}"
        self._running = 0
        self._repeats = Repeats(
            Bounds(settings.llm_repeats_max, settings.llm_repeats_mb << 20, settings.llm_repeats_seconds)
        )
        self._leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        heavy = await is_heavy(body)
        peek = await aside(heavy, decoded, body, _Peek)
        digest = await aside(heavy, _messages_sha256, scope["path"], peek)
        engine = self.supervisor.find(peek.model)
        if self._running >= self.settings.llm_max_requests:
            raise Overloaded("The chat worker is full.", code="worker_full", retry_after=2)
        if scope["path"] == DETOKENIZE:
            await aside(heavy, _check_ids, body)
        headers = request_headers(scope["headers"], scope["request_id"], engine.key)
        self._running += 1
        try:
            with until_disconnect(receive):
                await self._repeats.answer(
                    path=scope["path"],
                    headers=scope["headers"],
                    body=body,
                    send=send,
                    ask=lambda send: self._relay_to(
                        engine, scope, headers, body, send, digest, sfw=bool(peek.sfw_mode)
                    ),
                )
        finally:
            self._running -= 1

    async def _relay_to(
        self,
        engine: Engine,
        scope: Scope,
        headers: RawHeaders,
        body: bytes,
        send: Send,
        digest: str | None,
        *,
        sfw: bool,
    ) -> None:
        async with self.supervisor.residency.use(engine) as base:
            self.counters.served(engine.model.role, sfw=sfw)
            proved = _with_proof(send, digest)
            await self.relay.forward("POST", _url(base, scope), headers, body, proved, _engine_lives)

    def announce(self) -> Announcement:
        served = self.supervisor.served()
        return Announcement(
            id=self._id,
            kind="chat",
            url=self.settings.reached_at(),  # type: ignore[arg-type]  # pydantic parses it
            models=served,
            capacity=self.settings.llm_max_requests,
            queue_depth=self._running,
            ready=bool(served),
            draining=self._leaving,
        )

    async def ready(self) -> Readiness:
        states = {engine.model.id: engine.state for engine in self.supervisor.engines}
        there = [engine for engine in self.supervisor.engines if self.supervisor.residency.serves(engine)]
        return Readiness(len(there) == len(states), {"engines": states})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engines and the registration, for as long as the block runs."""
        async with self.relay, self.watchers as watchers:
            watchers.watch("relay's timeouts", self.relay.sweeper)
            watchers.start("engines", self.supervisor.run())
            if self.settings.supabase_url and self.settings.supabase_key:
                watchers.start("registration with Supabase", edge_registration.keep(self.settings))
            if self.registrar:
                watchers.start("registration", self.registrar.run())
            yield

    def leave(self) -> None:
        """It will stop: what runs goes on, nothing new shall be sent here."""
        self._leaving = True
        self._changed()

    def _changed(self) -> None:
        if self.registrar is not None:
            self.registrar.changed()


def create_app(settings: ChatWorkerSettings, models: Sequence[Model], timeouts: Timeouts | None = None) -> Shell:
    """The chat worker as one ASGI application; its lifespan starts and stops the engines."""
    worker = ChatWorker(settings, models, timeouts)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with worker.running():
            yield

    api = FastAPI(title="Soundstage chat worker", lifespan=lifespan)
    report = SelfReport(settings, worker.supervisor, worker.counters)
    add_own_routes(api, report, worker.supervisor)
    add_pure_routes(api, PureWorker(settings, worker.supervisor, worker.counters, lambda: worker.relay))
    service = create_service(
        "chat",
        api,
        settings,
        routes={path: {"POST": worker} for path in RELAYED},
        ready=worker.ready,
        authorise=worker_key_check(settings.worker_key),
        watchers=worker.watchers,
    )
    service.on_stop(worker.leave)
    return service


def _check_ids(body: bytes) -> None:
    """Raises InvalidRequest where `tokens` is no list of a vocabulary's ids."""
    try:
        _ids(body)
    except msgspec.DecodeError as exc:
        text = f"tokens: token ids are whole numbers from 0: {exc}"
        raise InvalidRequest(text, param="tokens", code="invalid_value") from exc


def _messages_sha256(path: str, peek: _Peek) -> str | None:
    """Of the messages that were received: the orchestrator compares it with what it sent."""
    if path == "/v1/responses":
        return read_responses(peek.input, peek.instructions)[1] if peek.input else None
    return read_messages(peek.messages)[1] if peek.messages else None


def _with_proof(send: Send, digest: str | None) -> Send:
    """`send` with the hash of the messages on the answer."""
    if digest is None:
        return send

    async def proved(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-messages-sha256", digest.encode())]
        await send(message)

    return proved


def _url(base: URL, scope: Scope) -> URL:
    query = scope.get("query_string", b"").decode("latin-1")
    return base.with_path(scope["path"]).with_query(query or None)


def _engine_lives(answer: Answer) -> None:
    """A 5xx is an engine that is dying or full: a 503 that says when to come again, so that others may be tried."""
    if answer.status >= 500:
        raise Unavailable(f"The engine failed to answer ({answer.status}).", code="engine_unavailable", retry_after=2)
