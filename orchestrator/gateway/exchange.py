"""A relayed request: authorise → read → admit → judge → pick a worker → relay bytes both ways → settle.

The body is not re-serialised; only `model` may be rewritten, and only for a worker that does not know the alias, and an
image's `prompt`, where the policy appends its constraints (X-Policy says so).
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

from starlette.types import Message, Receive, Scope, Send

from core.errors import InvalidRequest
from core.http.body import read_body
from core.http.disconnect import until_disconnect
from core.http.headers import refuse_other_codings
from core.http.relay import Relay, Timeouts
from core.json.size import aside, is_heavy
from core.wire.images import PicturesAsked
from orchestrator.access.keys import Key, Keys
from orchestrator.access.limits import Needs
from orchestrator.engines.client import Engines
from orchestrator.gateway import body_texts, costs, forms
from orchestrator.gateway.ask import Asker
from orchestrator.gateway.body import Body, Peek, StoredPrompt, peek, stored_prompt
from orchestrator.gateway.body_texts import BodyTexts
from orchestrator.gateway.forms import FormBody, SelfieForm
from orchestrator.gateway.media import Media
from orchestrator.gateway.paths import COMPLETIONS, PATHS, RECIPE_PATHS, RESPONSES, SELFIES
from orchestrator.gateway.pictures import counted
from orchestrator.gateway.selfies import photo_needs
from orchestrator.gateway.usage import STREAMS
from orchestrator.operate.tracing import Tracing
from orchestrator.policy.floor import Subject
from orchestrator.runs.call import Call
from orchestrator.runs.caller import Caller, caller_of
from orchestrator.runs.judge import Judge
from orchestrator.workers.registry import WorkerPool

NO_LIMITS: Mapping[str, Timeouts] = {}
ONE_REQUEST = Needs()
LARGE_FORM = 1 << 20  # bytes; reading a larger one would hold up other requests


class Exchange:
    """One relayed request: what is known of it so far. What is recorded and paid of it is its call's."""

    key: Key
    caller: Caller
    call: Call
    body: Body
    fields: Peek
    """What is read of the body."""
    model: str | None
    pictures: PicturesAsked
    """What is to be drawn, on a path that draws."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.path = PATHS[scope["path"]]
        self._send = send

    @cached_property
    def answers(self) -> tuple[int, int]:
        """How many answers are wanted to each of how many prompts."""
        return costs.answers(self.fields.n, self.fields.prompt) if self.path.ability in STREAMS else (1, 1)

    async def send(self, message: Message) -> None:
        """A piece of the answer, on to the caller."""
        if message["type"] == "http.response.start":
            message["headers"] = self.call.marked(message["status"], message["headers"])
        elif (digest := self.call.digest) is not None:
            digest.update(message["body"])
        await self._send(message)


class Recipes(Protocol):
    """Who answers for a request that names a stored prompt, and for one whose prompt's tokens are to be proved."""

    async def answer(self, prompt: StoredPrompt, body: bytes, call: Call, send: Send) -> None: ...

    async def prove(self, model: str, body: bytes, call: Call, send: Send) -> None: ...


class Gateway:
    """The relay's raw ASGI application: one instance answers every path of PATHS."""

    def __init__(
        self,
        *,
        keys: Keys,
        workers: WorkerPool,
        relay: Relay,
        engines: Engines,
        recipes: Recipes,
        judge: Judge,
        media: Media,
        prove_tokens: bool = False,
        limits: Mapping[str, Timeouts] = NO_LIMITS,
        tracing: Tracing | None = None,
    ) -> None:
        """`prove_tokens`: of every relayed prompt, not only where `X-Prove: tokens` asks for it; `limits`: other than
        the relay's, by path."""
        self._keys = keys
        self._workers = workers
        self._relay = relay
        self._engines = engines
        self._recipes = recipes
        self._judge = judge
        self._media = media
        self._prove_tokens = prove_tokens
        self._tracing = tracing
        self._asker = Asker(workers, relay, limits, tracing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._tracing is None:
            await self._exchange(scope, receive, send)
            return
        with self._tracing.request(scope):
            await self._exchange(scope, receive, send)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole story of a request. However it ends, its call settles it where the inner block is left."""
        exchange = Exchange(scope, send)
        await self._authorise(exchange)
        sent = await read_body(receive, self._relay.timeouts.body)
        with until_disconnect(receive):
            async with self._judge.call(exchange.caller, recorded=exchange.path.surface is not None) as exchange.call:
                await self._read(exchange, sent)
                await exchange.call.enter(self._needs(exchange))
                prompt = self._stored_prompt(exchange)
                if prompt is not None:
                    await self._recipes.answer(prompt, exchange.body.sent, exchange.call, exchange.send)
                    return
                if exchange.path.surface is not None:
                    await self._judged(exchange)
                if exchange.model is not None and self._proves_tokens(exchange):
                    await self._recipes.prove(exchange.model, exchange.body.sent, exchange.call, exchange.send)
                    return
                await self._asker.ask(exchange)

    async def _authorise(self, exchange: Exchange) -> None:
        """Raises Unauthenticated, Forbidden, InvalidRequest."""
        scope = exchange.scope
        exchange.key = await self._keys.caller(scope)
        exchange.key.require(exchange.path.scope)
        exchange.caller = caller_of(scope, exchange.key)
        refuse_other_codings(scope["headers"])

    # -- read -----------------------------------------------------------------------------------------------------

    async def _read(self, exchange: Exchange, sent: bytes) -> None:
        """The body as it may go on, and what is read of it. Raises InvalidRequest."""
        body, fields = await self._body(exchange, sent)
        if fields.model is not None and (meant := exchange.key.aliases.get(fields.model)):
            body, fields.model = await aside(body.heavy, body.with_text, "model", meant), meant
        if exchange.path.draws:
            exchange.pictures = await aside(body.heavy, body.pictures)  # what a worker would refuse it need not see
        exchange.body, exchange.fields, exchange.model = body, fields, fields.model

    async def _body(self, exchange: Exchange, sent: bytes) -> tuple[Body, Peek]:
        if not exchange.path.form:
            heavy = await is_heavy(sent)
            settled = await self._media.settled(sent, admin="admin" in exchange.key.scopes, heavy=heavy)
            return Body(settled, heavy=heavy), await aside(heavy, peek, settled)
        kind: bytes = dict(exchange.scope["headers"]).get(b"content-type", b"")
        about = SelfieForm if exchange.caller.route == SELFIES else FormBody
        form = await aside(len(sent) > LARGE_FORM, forms.read, kind, sent, about)
        return form, peek(form.read)

    def _needs(self, exchange: Exchange) -> Needs:
        """What it takes at most. Raises InvalidRequest."""
        if not exchange.key.limited:
            return ONE_REQUEST
        if exchange.path.draws:
            exchange.call.work.asked = counted(exchange.pictures.count)
            return Needs(images=exchange.call.work.asked)
        if exchange.caller.route == SELFIES:
            return photo_needs(exchange.fields)
        return costs.most(exchange.path.ability, exchange.body.read, self._workers.context(exchange.model))

    def _stored_prompt(self, exchange: Exchange) -> StoredPrompt | None:
        """The recipe that is asked for. Raises InvalidRequest where there is neither one nor a model."""
        prompt = stored_prompt(exchange.fields) if exchange.caller.route in RECIPE_PATHS else None
        if prompt is None and exchange.model is None and exchange.path.named:
            raise InvalidRequest("`model` is required.", param="model", code="missing_model")
        return prompt

    def _proves_tokens(self, exchange: Exchange) -> bool:
        return exchange.caller.route in RECIPE_PATHS and (exchange.caller.prove_tokens or self._prove_tokens)

    # -- judge ----------------------------------------------------------------------------------------------------

    async def _judged(self, exchange: Exchange) -> None:
        """What the body says, and the constraints that it goes on with. Raises Refused, InvalidRequest."""
        call, path, texts = exchange.call, exchange.path, await self._texts(exchange)
        assert path.surface is not None
        call.run.model, call.run.messages_sha256 = exchange.model, texts.messages_sha256
        if texts.unread is None and texts.ids:
            decoded = await self._engines.texts(
                exchange.model,
                texts.ids,
                exchange.caller.request_id,
                tenant=exchange.key.tenant,
                until=exchange.caller.until,
            )
            texts.strings += decoded or ()
            texts.unread = "prompt" if decoded is None else None
        if texts.unread is not None:
            call.refuse_unchecked(texts.unread)
        subject = Subject(real=True) if path.form else texts.subject
        decision = await call.judge(texts.strings, path.surface, subject=subject)
        if decision.constraints and texts.prompt is not None:
            call.run.constraints_added = decision.constraints
            exchange.body = exchange.body.with_text("prompt", f"{texts.prompt} {decision.constraints}")

    async def _texts(self, exchange: Exchange) -> BodyTexts:
        """What the body says; a heavy one is read off the event loop."""
        route = exchange.caller.route
        return await aside(
            exchange.body.heavy,
            body_texts.read,
            exchange.body.read,
            self._workers.control_tokens(exchange.model),
            responses=route == RESPONSES,
            completion=route == COMPLETIONS,
        )
