"""A relayed request: authorise → admit → judge → pick a worker → relay bytes both ways → settle.

The body is not re-serialised; only `model` may be rewritten, and only for a worker that does not know the alias, and an
image's `prompt`, where the policy appends its constraints (X-Policy says so).
A worker that fails before the first byte is left for another one; after it, the stream carries the error.
"""

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from prometheus_client import Counter
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope
from yarl import URL

from core.errors import InvalidRequest, Unavailable, UpstreamTimeout
from core.http.body import read_body
from core.http.connections import Answer
from core.http.disconnect import until_disconnect
from core.http.end_to_end import request_headers
from core.http.headers import refuse_other_codings
from core.http.relay import Outcome, Relay, Timeouts
from core.json.size import aside, is_heavy
from core.untrusted import seconds_to_wait
from core.wire.workers import Ability
from orchestrator.access.keys import Key, Keys, Scope
from orchestrator.access.limits import Needs
from orchestrator.access.quotas import Metered, Quotas
from orchestrator.engines.client import Engines
from orchestrator.gateway import body_texts, costs, forms
from orchestrator.gateway.body import Body, Peek, StoredPrompt, affinity, peek, stored_prompt
from orchestrator.gateway.body_texts import BodyTexts
from orchestrator.gateway.media import Media
from orchestrator.gateway.pictures import PictureMeter, counted
from orchestrator.gateway.selfies import peek_form, photo_needs, selfie_texts
from orchestrator.gateway.usage import ASK_REFUSED, STREAMS, WORDED, Reading
from orchestrator.gateway.usage_stream import wanted_of, with_ask
from orchestrator.operate.tracing import Tracing
from orchestrator.policy.floor import Subject, Surface
from orchestrator.runs.caller import TIMEOUT_HEADER, Caller, caller_of
from orchestrator.runs.judge import WORKER_HEADER, Judge, Marked
from orchestrator.runs.record import Run
from orchestrator.workers.places import Place, nobody_listens
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.worker import Ask, Worker

log = logging.getLogger(__name__)


MAX_TRIES, MAX_REACHED = 3, 2  # a request that brings workers down is let at no third one
NO_LIMITS: Mapping[str, Timeouts] = {}
RETRIES = Counter("soundstage_retries_total", "Requests asked of another worker, before the first byte.", ["ability"])

PATHS: dict[str, tuple[Ability, Scope]] = {
    "/v1/chat/completions": ("chat", "chat"),
    "/v1/completions": ("completions", "chat"),
    "/v1/responses": ("responses", "chat"),
    "/v1/embeddings": ("embeddings", "chat"),
    "/tokenize": ("tokenize", "chat"),
    "/detokenize": ("tokenize", "chat"),
    "/v1/images/generations": ("images", "images"),
    "/v1/images/edits": ("image_edits", "images"),
    "/v1/profile/analyze": ("faces", "pipelines"),
}
SELFIES, EDITS = "/v1/profile/analyze", "/v1/images/edits"
FORMS = frozenset({SELFIES, EDITS})  # multipart, with a picture: its subject is real
MODEL_OPTIONAL = frozenset(("images", "image_edits", "faces"))
BY_TENANT = frozenset(("images", "image_edits"))  # whose workers share their steps between tenants
PICTURES = "pictures"  # where a request's scope keeps what it asks for
TENANT_HEADER = b"x-soundstage-tenant"
LARGE_FORM = 1 << 20  # bytes; reading a larger one would hold up other requests
RESPONSES, COMPLETIONS = "/v1/responses", "/v1/completions"
RECIPE_PATHS = frozenset({"/v1/chat/completions", RESPONSES})
JUDGED: dict[str, Surface] = {
    "/v1/chat/completions": "text",
    "/v1/completions": "text",
    "/v1/responses": "text",
    "/v1/images/generations": "image",
    "/v1/images/edits": "image",
    "/v1/profile/analyze": "text",
}


class Recipes(Protocol):
    """Who answers for a request that names a stored prompt, and for one whose prompt's tokens are to be proved."""

    async def answer(self, prompt: StoredPrompt, body: bytes, caller: Caller, send: Send) -> None: ...

    async def prove(self, run: Run, model: str, body: bytes, caller: Caller, send: Send) -> None: ...


class Gateway:
    """The relay's raw ASGI application: one instance answers every path of PATHS."""

    def __init__(
        self,
        keys: Keys,
        quotas: Quotas,
        workers: WorkerPool,
        relay: Relay,
        engines: Engines,
        recipes: Recipes,
        judge: Judge,
        media: Media,
        *,
        prove_tokens: bool = False,
        limits: Mapping[str, Timeouts] = NO_LIMITS,
        tracing: Tracing | None = None,
    ) -> None:
        """`prove_tokens`: of every relayed prompt, not only where `X-Prove: tokens` asks for it; `limits`: other than
        the relay's, by path."""
        self._limits = limits
        self._tracing = tracing
        self._media = media
        self._prove_tokens = prove_tokens
        self._keys = keys
        self._quotas = quotas
        self._workers = workers
        self._relay = relay
        self._engines = engines
        self._recipes = recipes
        self._judge = judge

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if self._tracing is None:
            await self._handle(scope, receive, send)
            return
        with self._tracing.request(scope):
            await self._handle(scope, receive, send)

    async def _handle(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        ability, wanted_scope = PATHS[path]
        key = await self._keys.caller(scope)
        key.require(wanted_scope)
        caller = caller_of(scope, key)
        refuse_other_codings(scope["headers"])
        sent = await read_body(receive, self._relay.timeouts.body)
        self._quotas.saw(key)
        with until_disconnect(receive):
            body, found = await self._read(scope, path, sent, key)
            if found.model is not None and (meant := key.aliases.get(found.model)):
                body, found.model = await aside(body.heavy, body.with_text, "model", meant), meant
            if ability in BY_TENANT:
                scope[PICTURES] = await aside(body.heavy, body.pictures)  # what a worker would refuse it need not see
            if not key.limited:
                await self._answer(scope, body, found, ability, caller, send)
                return
            if ability in BY_TENANT:
                await self._drawn(scope, body, found, ability, caller, send)
                return
            photo = ability == "faces"
            needs = photo_needs(found) if photo else costs.most(ability, body.read, self._workers.context(found.model))
            entry = await self._quotas.enter(key, needs)
            metered = Metered(send, entry)
            try:
                await self._answer(scope, body, found, ability, replace(caller, entry=entry), metered)
            finally:
                entry.leave(metered.used(needs))

    async def _drawn(
        self, scope: ASGIScope, body: Body, found: Peek, ability: Ability, caller: Caller, send: Send
    ) -> None:
        """Pictures under limits: those that a worker drew are paid, whoever still waits for them."""
        asked = counted(scope[PICTURES].count)
        entry = await self._quotas.enter(caller.key, Needs(images=asked))
        meter = PictureMeter(send, entry, asked)
        try:
            await self._answer(scope, body, found, ability, replace(caller, entry=entry), meter)
        except (asyncio.CancelledError, UpstreamTimeout):
            meter.left = "worker" in scope
            raise
        finally:
            meter.left = meter.left or "late" in scope
            entry.leave(meter.used(broken="broken" in scope))

    async def _read(self, scope: ASGIScope, path: str, sent: bytes, key: Key) -> tuple[Body, Peek]:
        """The body as it may go on, and what is read of it. Raises InvalidRequest."""
        if path not in FORMS:
            heavy = await is_heavy(sent)
            body = Body(await self._media.settled(sent, admin="admin" in key.scopes, heavy=heavy), heavy=heavy)
            return body, await aside(heavy, peek, body.sent)
        if path == SELFIES:
            return Body(sent), await peek_form(scope, sent)
        kind: bytes = dict(scope["headers"]).get(b"content-type", b"")
        form = await aside(len(sent) > LARGE_FORM, forms.read, kind, sent)
        return form, peek(form.read)

    async def _answer(
        self, scope: ASGIScope, body: Body, found: Peek, ability: Ability, caller: Caller, send: Send
    ) -> None:
        path = caller.route
        if path in RECIPE_PATHS:
            prompt = stored_prompt(found)
            if prompt is not None:
                await self._recipes.answer(prompt, body.sent, caller, send)
                return
        if found.model is None and ability not in MODEL_OPTIONAL:
            raise InvalidRequest("`model` is required.", param="model", code="missing_model")
        if path in RECIPE_PATHS and found.model is not None and (caller.prove_tokens or self._prove_tokens):
            run = self._judge.begin(caller)
            body = await self._judged(run, body, found, caller, JUDGED[path])
            await self._recipes.prove(run, found.model, body.sent, caller, send)
        elif path in JUDGED:
            await self._watched(scope, body, found, ability, caller, send)
        else:
            await self._forward(scope, body, found, ability, caller, send, _may_answer)

    async def _watched(
        self, scope: ASGIScope, body: Body, found: Peek, ability: Ability, caller: Caller, send: Send
    ) -> None:
        """Judge the request, forward it with the proof on its answer, record the run however it ends."""
        run = self._judge.begin(caller)
        body = await self._judged(run, body, found, caller, JUDGED[scope["path"]])
        marked = Marked(self._judge, run, send)

        def accept(answer: Answer) -> None:
            _may_answer(answer)
            self._judge.compare(run, answer.headers.get(WORKER_HEADER))

        try:
            await self._forward(scope, body, found, ability, caller, marked, accept, run)
        except BaseException as exc:  # a client that leaves, too: every run is recorded
            marked.settle(exc)
            raise
        marked.settle()

    async def _judged(self, run: Run, body: Body, found: Peek, caller: Caller, surface: Surface) -> Body:
        """The body as it may go on. Raises Refused."""
        says = await self._texts(body, found, caller)
        run.model, run.messages_sha256 = found.model, says.messages_sha256
        if says.unread is None and says.ids:
            decoded = await self._engines.texts(
                found.model, says.ids, caller.request_id, tenant=caller.key.tenant, until=caller.until
            )
            says.strings += decoded or ()
            says.unread = "prompt" if decoded is None else None
        if says.unread is not None:
            self._judge.refuse_unchecked(run, says.unread)
        subject = Subject(real=True) if caller.route in FORMS else says.subject
        decision = await self._judge.admit(run, caller, says.strings, surface, subject=subject)
        if decision.constraints and says.prompt is not None:
            run.constraints_added = decision.constraints
            body = body.with_text("prompt", f"{says.prompt} {decision.constraints}")
        return body

    async def _texts(self, body: Body, found: Peek, caller: Caller) -> BodyTexts:
        """What the body says; a heavy one is read off the event loop."""
        return await aside(
            body.heavy,
            body_texts.read,
            selfie_texts(found) if caller.route == SELFIES else body.read,
            self._workers.control_tokens(found.model),
            responses=caller.route == RESPONSES,
            completion=caller.route == COMPLETIONS,
        )

    async def _forward(
        self,
        scope: ASGIScope,
        body: Body,
        found: Peek,
        ability: Ability,
        caller: Caller,
        send: Send,
        accept: Callable[[Answer], None],
        run: Run | None = None,
    ) -> None:
        """Ask a worker; if it fails before the first byte, another one; then give up."""
        ask = Ask(
            *(found.model, ability, None, caller.key.tenant, caller.priority, caller.until),
            cost=lambda: costs.drawing(scope[PICTURES]) if ability in BY_TENANT else costs.estimate(ability, body.read),
            affinity=lambda: affinity(found, body.read, caller.session),
            notes=scope,
        )
        place: Place | None = await self._workers.take(ask)
        tried: set[str] = set()
        reached = 0
        while place is not None:
            worker = place.worker
            scope["worker"] = worker.id
            if run is not None:
                run.worker = worker.id
            try:
                with place:
                    answered = await self._pass(worker, scope, body, found, ability, caller, send, accept, run)
                    if not answered.complete:
                        scope["broken"] = True
                    if answered.late:
                        scope["late"] = True
                    if answered.status >= 500 or not (answered.complete or answered.not_taken):
                        place.failed()
                return
            except Unavailable as exc:
                tried.add(worker.id)
                reached += not nobody_listens(exc)
                log.warning("worker failed before the first byte", extra={"worker": worker.id, "why": exc.message})
                again = len(tried) < MAX_TRIES and reached < MAX_REACHED
                place = await self._workers.pools.take_other(ask, tried) if again else None
                if place is None:
                    raise
                RETRIES.labels(ability).inc()

    async def _pass(
        self,
        worker: Worker,
        scope: ASGIScope,
        body: Body,
        found: Peek,
        ability: Ability,
        caller: Caller,
        send: Send,
        accept: Callable[[Answer], None],
        run: Run | None,
    ) -> Outcome:
        """The request to one worker and its answer back. A stream is asked for its usage; an engine that refuses such
        a request is asked as the caller did, so that a refusal is of what the caller sent."""
        model = found.model or ""
        rewritten = worker.rewrites.get(model)
        sent = (body if rewritten is None else body.with_text("model", rewritten)).sent
        answers = costs.answers(found.n, found.prompt) if ability in STREAMS else (1, 1)
        call = _Call(worker, scope, body.read, caller, send, run, found.model, answers[0] * answers[1])
        wanted = wanted_of(found, *answers) if ability in STREAMS else None
        if wanted is None or wanted.everything:
            return await self._once(call, sent, Reading(ability, len(sent), wanted), accept)

        def accept_ask(answer: Answer) -> None:
            if answer.status in ASK_REFUSED:
                raise _AskRefusedError
            accept(answer)

        reading = Reading(ability, len(sent), wanted, cuts=True, fingerprint=worker.fingerprints.get(model))
        asked = await aside(body.heavy, with_ask, sent, found)
        try:
            answered = await self._once(call, asked, reading, accept_ask)
        except _AskRefusedError:
            return await self._once(call, sent, Reading(ability, len(sent), wanted), accept)
        if reading.fingerprint is not None:
            worker.fingerprints[model] = reading.fingerprint
        return answered

    async def _once(self, call: "_Call", sent: bytes, reading: Reading, accept: Callable[[Answer], None]) -> Outcome:
        """These bytes to the worker, its answer back, and what it took to whoever counts."""
        headers, until = self._headers(call, reading), call.caller.until
        span = (
            None
            if self._tracing is None
            else self._tracing.ask(call.scope, call.worker.id, call.worker.url, reading.ability, call.read)
        )
        if span is not None:
            headers = span.carried_by(headers)
        error: BaseException | None = None
        try:
            return await self._relay.forward(
                *("POST", _target(call.worker.url, call.scope), headers, sent, call.send, accept),
                until=until,
                limits=self._limits.get(call.caller.route),
                through=reading,
            )
        except BaseException as exc:  # a client that leaves, too: what passed until then is counted
            error = exc
            raise
        finally:
            usage = reading.count(span, error, lambda seconds: self._unseen(call, reading.ability, seconds))
            if usage is not None and usage.source == "engine" and reading.ability in WORDED:
                call.worker.note_pace(usage.output / call.answers, reading.last - reading.began)
            if call.caller.entry is not None:
                call.caller.entry.usage = usage
            if call.run is not None:
                call.run.took(usage)

    def _unseen(self, call: "_Call", ability: Ability, seconds: float) -> int:
        """Tokens of an answer that a worker had so long for and nobody saw: by its pace, at most what was asked for."""
        longest = costs.longest(ability, call.read, self._workers.context(call.model))
        return min(int(seconds * call.worker.pace * call.answers), longest)

    def _headers(self, call: "_Call", reading: Reading) -> list[tuple[bytes, bytes]]:
        """What the worker is sent with the bytes."""
        headers = request_headers(call.scope["headers"], call.scope["request_id"], call.worker.key)
        if reading.ability in BY_TENANT:
            headers.append((TENANT_HEADER, call.caller.key.tenant.encode()))
        if reading.ability in WORDED:  # an answer that is packed could not be counted
            headers = [pair for pair in headers if pair[0] != b"accept-encoding"]
        if call.caller.until != math.inf:
            left = max(0.0, call.caller.until - asyncio.get_running_loop().time())
            headers = [pair for pair in headers if pair[0] != TIMEOUT_HEADER]
            headers.append((TIMEOUT_HEADER, b"%.3f" % left))
        return headers


class _Call(NamedTuple):
    """One worker asked for one request. `read`: its body as JSON to decide by; `answers`: how many it wants."""

    worker: Worker
    scope: ASGIScope
    read: bytes
    caller: Caller
    send: Send
    run: Run | None
    model: str | None
    answers: int


class _AskRefusedError(Exception):
    """The engine refused a request that asked for its usage."""


def _target(base: URL, scope: ASGIScope) -> URL:
    """The worker's address of the same path."""
    query: bytes = scope["query_string"]
    url = _joined(base, scope["path"])
    return url.with_query(query.decode("latin-1")) if query else url


@functools.lru_cache(1024)
def _joined(base: URL, path: str) -> URL:
    return base.joinpath(path.lstrip("/"))


def _may_answer(answer: Answer) -> None:
    """A 503 is a worker that cannot answer now: another may, so it is not passed on before all were asked."""
    if answer.status == 503:
        raise Unavailable(
            "The worker cannot answer right now.",
            code="engine_unavailable",
            retry_after=seconds_to_wait(answer.headers.get("retry-after", "")),
        )
