"""Asking workers for an exchange: one that fails before the first byte is left for another one; after it, the stream
carries the error."""

import asyncio
import functools
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import Counter
from starlette.types import Scope
from yarl import URL

from core.errors import Unavailable
from core.http.connections import Answer
from core.http.end_to_end import request_headers
from core.http.relay import Outcome, Relay, Timeouts
from core.json.size import aside
from core.untrusted import seconds_to_wait
from orchestrator.gateway import costs
from orchestrator.gateway.body import affinity
from orchestrator.gateway.usage import ASK_REFUSED, STREAMS, WORDED, AnswerMeter
from orchestrator.gateway.usage_stream import requested_usage, with_usage_request
from orchestrator.operate.tracing import Tracing
from orchestrator.runs.call import WORKER_HEADER
from orchestrator.runs.caller import TIMEOUT_HEADER
from orchestrator.workers.places import Place, nobody_listens
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.worker import Ask, Worker

if TYPE_CHECKING:
    from orchestrator.gateway.exchange import Exchange

log = logging.getLogger(__name__)

MAX_TRIES, MAX_REACHED = 3, 2  # a request that brings workers down is let at no third one
TENANT_HEADER = b"x-soundstage-tenant"
RETRIES = Counter("soundstage_retries_total", "Requests asked of another worker, before the first byte.", ["ability"])


class UsageRefusedError(Exception):
    """The engine refused a request that asked for its usage."""


class Asker:
    """Asks workers. One for each process."""

    def __init__(
        self, workers: WorkerPool, relay: Relay, limits: Mapping[str, Timeouts], tracing: Tracing | None
    ) -> None:
        self._workers = workers
        self._relay = relay
        self._limits = limits
        self._tracing = tracing

    async def ask(self, exchange: "Exchange") -> None:
        """Ask a worker; if it fails before the first byte, another one; then give up. Raises NotFound, Unavailable,
        Overloaded, UpstreamTimeout, Upstream."""
        ask = _ask(exchange)
        place: Place | None = await self._workers.take(ask)
        tried: set[str] = set()
        reached = 0
        while place is not None:
            worker = place.worker
            exchange.scope["worker"] = exchange.call.run.worker = worker.id
            exchange.call.work.begun = True
            try:
                with place:
                    sent = await self._relayed(exchange, worker)
                    if sent.status >= 500 or not (sent.complete or sent.not_taken):
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
                RETRIES.labels(ask.ability).inc()

    async def _relayed(self, exchange: "Exchange", worker: Worker) -> Outcome:
        """The request to one worker and its answer back. A stream is asked for its usage; an engine that refuses such
        a request is asked as the caller did, so that a refusal is of what the caller sent."""
        model, ability = exchange.model or "", exchange.path.ability
        rewritten = worker.rewrites.get(model)
        body = (exchange.body if rewritten is None else exchange.body.with_text("model", rewritten)).sent
        wanted = requested_usage(exchange.fields, *exchange.answers) if ability in STREAMS else None
        if wanted is not None and not wanted.everything:
            meter = AnswerMeter(ability, len(body), wanted, cuts=True, fingerprint=worker.fingerprints.get(model))
            asking = await aside(exchange.body.heavy, with_usage_request, body, exchange.fields)
            try:
                sent = await self._once(exchange, worker, asking, meter)
            except UsageRefusedError:
                pass
            else:
                if meter.fingerprint is not None:
                    worker.fingerprints[model] = meter.fingerprint
                return sent
        pictures = exchange.call.work.asked
        return await self._once(exchange, worker, body, AnswerMeter(ability, len(body), wanted, pictures=pictures))

    async def _once(self, exchange: "Exchange", worker: Worker, body: bytes, meter: AnswerMeter) -> Outcome:
        """These bytes to the worker, its answer back, and what it took to whoever counts."""
        headers = _headers(exchange, worker)
        span = None
        if self._tracing is not None:
            ability, read = exchange.path.ability, exchange.body.read
            span = self._tracing.ask(exchange.scope, worker.id, worker.url, ability, read)
            headers = span.carried_by(headers)
        error: BaseException | None = None
        try:
            sent = await self._relay.forward(
                "POST",
                _target(worker.url, exchange.scope),
                headers,
                body,
                exchange.send,
                functools.partial(_accept, exchange, meter),
                until=exchange.caller.until,
                limits=self._limits.get(exchange.caller.route),
                through=meter,
            )
            if not sent.complete:
                exchange.scope["broken"] = True
            exchange.call.late = sent.late
            exchange.call.work.came = meter.pictures(broken=not sent.complete)
            return sent
        except BaseException as exc:  # a client that leaves, too: what passed until then is counted
            error = exc
            raise
        finally:
            usage = meter.count(span, error, lambda seconds: self._unseen(exchange, worker, seconds))
            if usage is not None and usage.source == "engine" and meter.ability in WORDED:
                worker.note_pace(usage.output / math.prod(exchange.answers), meter.last - meter.began)
            exchange.call.run.took(usage)

    def _unseen(self, exchange: "Exchange", worker: Worker, seconds: float) -> int:
        """Tokens of an answer that a worker had so long for and nobody saw: by its pace, at most what was asked for."""
        context = self._workers.context(exchange.model)
        longest = costs.longest(exchange.path.ability, exchange.body.read, context)
        return min(int(seconds * worker.pace * math.prod(exchange.answers)), longest)


def _ask(exchange: "Exchange") -> Ask:
    """Which workers can take it, and how they choose."""
    caller, ability = exchange.caller, exchange.path.ability
    return Ask(
        model=exchange.model,
        ability=ability,
        tenant=caller.key.tenant,
        priority=caller.priority,
        until=caller.until,
        cost=lambda: (
            costs.drawing(exchange.pictures) if exchange.path.draws else costs.estimate(ability, exchange.body.read)
        ),
        affinity=lambda: affinity(exchange.fields, exchange.body.read, caller.session),
        notes=exchange.scope,
    )


def _headers(exchange: "Exchange", worker: Worker) -> list[tuple[bytes, bytes]]:
    """What the worker is sent with the bytes."""
    caller = exchange.caller
    headers = request_headers(exchange.scope["headers"], caller.request_id, worker.key)
    if exchange.path.draws:
        headers.append((TENANT_HEADER, caller.key.tenant.encode()))
    if exchange.path.ability in WORDED:  # an answer that is packed could not be counted
        headers = [pair for pair in headers if pair[0] != b"accept-encoding"]
    if caller.until != math.inf:
        left = max(0.0, caller.until - asyncio.get_running_loop().time())
        headers = [pair for pair in headers if pair[0] != TIMEOUT_HEADER]
        headers.append((TIMEOUT_HEADER, b"%.3f" % left))
    return headers


def _accept(exchange: "Exchange", meter: AnswerMeter, answer: Answer) -> None:
    """Whether this answer is passed on. A 503 is a worker that cannot answer now: another may, so it is not passed on
    before all were asked."""
    if meter.cuts and answer.status in ASK_REFUSED:
        raise UsageRefusedError
    if answer.status == 503:
        raise Unavailable(
            "The worker cannot answer right now.",
            code="engine_unavailable",
            retry_after=seconds_to_wait(answer.headers.get("retry-after", "")),
        )
    if exchange.call.judged:
        exchange.call.compare(answer.headers.get(WORKER_HEADER))


def _target(base: URL, scope: Scope) -> URL:
    """The worker's address of the same path."""
    query: bytes = scope["query_string"]
    url = _joined(base, scope["path"])
    return url.with_query(query.decode("latin-1")) if query else url


@functools.lru_cache(1024)
def _joined(base: URL, path: str) -> URL:
    return base.joinpath(path.lstrip("/"))
