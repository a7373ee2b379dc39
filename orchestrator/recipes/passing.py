"""An engine's answer to a recipe: passed on, read for its proof. JSON gets all of it in headers; a stream what is known
when it begins, and the rest in a last SSE comment, which every SDK skips."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx2
import msgspec
from starlette.types import Send

from core.errors import Upstream
from core.http.relay import error_event
from core.json.canonical import sha256
from orchestrator.engines import chat_api
from orchestrator.engines.answer import AnswerParts, Reader
from orchestrator.gateway import costs
from orchestrator.gateway.usage import AnswerMeter
from orchestrator.gateway.usage_stream import usage_request, with_usage
from orchestrator.runs.record import Run

PASSED_HEADERS = frozenset({"content-type", "content-encoding"})


class Way(NamedTuple):
    """What an engine is asked, how its answer is read, and whether there is no other way left."""

    fields: Mapping[str, Any]
    meter: AnswerMeter
    last: bool = True


def ways_to_ask(speech: chat_api.Dialect, messages: Any, request: Mapping[str, Any]) -> list[Way]:
    """As the caller asked; before that, of a stream, asking for its usage too."""
    sent = len(msgspec.json.encode(messages))
    options = request.get("stream_options")
    answers_wanted = costs.whole(request.get("n")) or 1
    wanted = usage_request(request.get("stream"), options, answers_wanted) if speech.ability == "chat" else None
    own = Way(request, AnswerMeter(speech.ability, sent, wanted))
    if wanted is None or wanted.everything:
        return [own]
    fields = {**request, "stream_options": with_usage(options)}
    return [Way(fields, AnswerMeter(speech.ability, sent, wanted, cuts=True), last=False), own]


async def pass_on(
    response: httpx2.Response, run: Run, send: Send, reader: Reader, meter: AnswerMeter, *, ids_wanted: bool
) -> str:
    """Send the engine's answer on, as `meter` lets it; its text, and its hashes in `run`."""
    stream = response.headers.get("content-type", "").startswith("text/event-stream")
    headers = [(k.encode(), v.encode()) for k, v in response.headers.items() if k in PASSED_HEADERS]
    meter.status = response.status_code
    headers = meter.begins(headers)
    start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    if stream:
        await send(start)
        return await _stream(response, run, send, _Events(reader, whole=ids_wanted), meter)
    body = await response.aread()
    meter.passes(body)
    text = proved(run, reader.whole(body))
    if not ids_wanted:
        body = reader.bare(body)
    start["headers"] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
    return text


def proved(run: Run, answer: AnswerParts) -> str:
    """The text of an answer; its hashes go into `run`."""
    text = answer.text or ""
    if answer.token_ids is not None:
        run.prompt_tokens_sha256 = sha256(answer.token_ids)
    run.output_sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return text


async def _stream(response: httpx2.Response, run: Run, send: Send, events: "_Events", meter: AnswerMeter) -> str:
    """The engine's events as they come; an engine that breaks off leaves an error event."""
    try:
        async for chunk in response.aiter_raw():
            if lines := events.feed(meter.passes(chunk)):
                await send({"type": "http.response.body", "body": lines, "more_body": True})
        if lines := events.feed(meter.rest()) + events.rest:
            await send({"type": "http.response.body", "body": lines, "more_body": True})
    except httpx2.HTTPError as exc:
        late = isinstance(exc, httpx2.TimeoutException)
        await send({"type": "http.response.body", "body": error_event(late), "more_body": True})
    text = proved(run, AnswerParts("".join(events.text), events.token_ids))
    await send({"type": "http.response.body", "body": proof_comment(run), "more_body": False})
    return text


def proof_comment(run: Run) -> bytes:
    """An SSE comment: a line that begins with a colon is skipped by every client."""
    rest = {
        "run_id": run.id,
        "messages_sha256": run.messages_sha256,
        "prompt_tokens_sha256": run.prompt_tokens_sha256,
        "output_sha256": run.output_sha256,
        "proof": run.proof,
    }
    return b": soundstage " + msgspec.json.encode(rest) + b"\n\n"


class _Events:
    """Reads a stream beside its passing: its text and the prompt's token ids, which stay here unless `whole`."""

    def __init__(self, reader: Reader, *, whole: bool) -> None:
        self.text: list[str] = []
        self.token_ids: list[int] | None = None
        self.rest = b""
        """The line that is not whole yet."""
        self._reader = reader
        self._whole = whole

    def feed(self, chunk: bytes) -> bytes:
        """The lines that are whole by now, as they pass on."""
        if not chunk:
            return b""
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        return b"".join(self._passed(line) + b"\n" for line in lines)

    def _passed(self, line: bytes) -> bytes:
        if not line.startswith(b"data:") or b"[DONE]" in line[:14]:
            return line
        try:
            found = self._reader.event(line[5:])
        except Upstream:
            return line  # not what was expected: passed on all the same
        self.token_ids = found.token_ids or self.token_ids
        if found.text:
            self.text.append(found.text)
        return line if self._whole else b"data: " + self._reader.bare(line[5:]).strip()
