"""OpenTelemetry traces with the GenAI conventions: one span for a request, one below it for each worker that is asked;
one for a pipeline's run, one below it for each step.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set; then the SDK is imported, which the other names of its environment
(OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, …) configure. No prompt and no answer is in a span.
The caller's `traceparent` reaches the worker in any case: as it was sent or, with traces on, as a child of it.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.types import Scope
from yarl import URL

from core.errors import SoundstageError
from core.http.relay import AnswerFilter
from core.json.text import NOT_JSON
from core.usage import Usage
from core.wire.workers import Ability

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

SWITCH = "OTEL_EXPORTER_OTLP_ENDPOINT"
OPERATIONS: Mapping[Ability, str] = {
    "chat": "chat",
    "completions": "text_completion",
    "responses": "chat",
    "embeddings": "embeddings",
    "images": "generate_content",
    "image_edits": "generate_content",
}
_PROPAGATED = frozenset((b"traceparent", b"tracestate"))
current_trace: ContextVar[str | None] = ContextVar("current_trace", default=None)
"""The `traceparent` of the work of ours that runs here, where it is traced."""


class _Request(msgspec.Struct):
    """What a span tells of a request. Anything may stand there: only what has the right type is told."""

    model: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    seed: Any = None
    n: Any = None


_decode = msgspec.json.Decoder(_Request).decode


class Span:
    """One request to a worker."""

    def __init__(self, span: "OtelSpan", carrier: Mapping[str, str]) -> None:
        self._span, self._carrier = span, carrier

    def carried_by(self, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The headers with this span as the parent of whatever the worker traces."""
        return _with(headers, self._carrier)

    def ended(self, passage: AnswerFilter, usage: Usage | None, error: BaseException | None) -> None:
        """With what passed. Of an answer that did not come or broke off, the error's type."""
        if usage is not None and usage.source == "engine":
            self._span.set_attribute("gen_ai.usage.input_tokens", usage.input)
            self._span.set_attribute("gen_ai.usage.output_tokens", usage.output)
        if passage.status:
            self._span.set_attribute("http.response.status_code", passage.status)
        if passage.first:
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", passage.first - passage.began)
        if error is not None or passage.status >= 400:
            _mark_failed(self._span, error, passage.status)
        self._span.end()


class Tracing:
    """Makes spans. One for each process."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("soundstage")
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def request(self, scope: Scope) -> Iterator[None]:
        """A span around a relayed request, below the caller's where it sent one."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        sent = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name in _PROPAGATED
        }
        method, path = scope["method"], scope["path"]
        attributes = {"http.request.method": method, "http.route": path, "url.path": path}
        attributes["soundstage.request_id"] = scope["request_id"]
        around = self._propagator.extract(sent)
        span = self._tracer.start_span(f"{method} {path}", around, SpanKind.SERVER, attributes)
        scope["trace"] = set_span_in_context(span)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, scope["trace"])  # so that whoever asks an engine for it is below this span
        scope["headers"] = _with(scope["headers"], carrier)
        try:
            yield
        except BaseException as exc:  # a client that leaves, too
            _mark_failed(span, exc, 0)
            raise
        finally:
            span.end()

    def ask(self, scope: Scope, worker: str, url: URL, ability: Ability, body: bytes) -> Span:
        """A span of one request to a worker, which `Span.ended` ends."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        operation = OPERATIONS.get(ability, ability)
        attributes = {
            **_request_attributes(body),
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "soundstage",
            "server.address": url.host or "",
            "server.port": url.port or 0,
            "soundstage.worker": worker,
        }
        name = f"{operation} {attributes.get('gen_ai.request.model', '')}".strip()
        span = self._tracer.start_span(name, scope["trace"], SpanKind.CLIENT, attributes)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return Span(span, carrier)

    @contextlib.contextmanager
    def work(self, operation: str, name: str, more: Mapping[str, str], caller: str | None = None) -> Iterator[None]:
        """A span around work of our own, a pipeline or its step: below the one around it, else below the `traceparent`
        of its caller. Engines that are asked within are told of it."""
        attributes = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "soundstage", **more}
        around = current_trace.get() or caller
        with self._tracer.start_as_current_span(
            f"{operation} {name}",
            self._propagator.extract({"traceparent": around}) if around else None,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            before = current_trace.set(carrier.get("traceparent"))
            try:
                yield
            except BaseException as exc:  # a cancelled run, too
                _mark_failed(span, exc, 0)
                raise
            finally:
                current_trace.reset(before)

    def close(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()


def from_environment() -> Tracing | None:
    """None where traces are off."""
    if not os.environ.get(SWITCH):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", "soundstage-orchestrator")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _with(headers: Sequence[tuple[bytes, bytes]], carrier: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers with another trace in them."""
    kept = [pair for pair in headers if pair[0] not in _PROPAGATED]
    return [*kept, *((name.encode(), value.encode()) for name, value in carrier.items())]


def _request_attributes(body: bytes) -> dict[str, Any]:
    """A request's own attributes."""
    try:
        asked = _decode(body)
    except NOT_JSON:
        return {}  # a selfie's form
    limit = asked.max_completion_tokens or asked.max_tokens or asked.max_output_tokens
    numbers = {
        "max_tokens": limit,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "frequency_penalty": asked.frequency_penalty,
        "presence_penalty": asked.presence_penalty,
        "seed": asked.seed,
        "choice.count": asked.n if asked.n != 1 else None,
    }
    found: dict[str, Any] = {f"gen_ai.request.{name}": n for name, n in numbers.items() if isinstance(n, int | float)}
    return found | ({"gen_ai.request.model": asked.model[:200]} if isinstance(asked.model, str) else {})


def _mark_failed(span: "OtelSpan", error: BaseException | None, status: int) -> None:
    from opentelemetry.trace import Status, StatusCode

    if isinstance(error, SoundstageError):
        span.set_attribute("error.type", error.code or type(error).__name__)
        span.set_attribute("http.response.status_code", error.status)
    else:
        span.set_attribute("error.type", type(error).__name__ if error is not None else str(status))
    span.set_status(Status(StatusCode.ERROR))
