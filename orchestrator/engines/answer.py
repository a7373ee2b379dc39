"""An engine's answer to a recipe: passed on, read for its proof. JSON gets all of it in headers; a stream what is known
when it begins, and the rest in a last SSE comment, which every SDK skips."""

import hashlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec

from core.canonical import sha256
from core.errors import Upstream
from core.http.relay import error_event
from core.untrusted import decoded
from orchestrator.gateway.usage import Reading
from orchestrator.runs.record import Run

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
PASSED_HEADERS = frozenset({"content-type", "content-encoding"})


@dataclass
class Found:
    """What is read of an answer, or of one event of its stream: its text, and the prompt's token ids."""

    text: str | None = None
    token_ids: list[int] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Delta | None = None
    delta: _Delta | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    prompt_token_ids: list[int] | None = None


class _Text(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Item(msgspec.Struct):
    type: str = ""
    content: list[_Text] | None = None


class _Raw(msgspec.Struct):
    tokens: list[int] | None = None


class _Response(msgspec.Struct):
    output: list[_Item] = []
    input_messages: list[_Raw] | None = None


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    delta: Any = None
    response: _Response | None = None


def _of_completion(data: bytes) -> Found:
    """Of its first choice. Raises Upstream, like its brothers below."""
    answer = decoded(data, _Completion)
    first = next((choice for choice in answer.choices if choice.index == 0), _Choice())
    said = first.message or first.delta
    return Found(said.content if said else None, answer.prompt_token_ids)


def _of_response(data: bytes) -> Found:
    """All its output texts together, as the SDK's `output_text` gives them."""
    answer = decoded(data, _Response)
    parts = [part for item in answer.output if item.type == "message" for part in item.content or ()]
    return Found("".join(part.text for part in parts if part.type == "output_text"), _tokens(answer))


def _of_response_event(data: bytes) -> Found:
    event = decoded(data, _ResponseEvent)
    said = event.delta if event.type == "response.output_text.delta" and isinstance(event.delta, str) else None
    return Found(said, _tokens(event.response) if event.response else None)


def _tokens(response: _Response) -> list[int] | None:
    """The token ids of the one prompt; none where the engine went through several."""
    raw = response.input_messages or []
    return raw[0].tokens if len(raw) == 1 else None


@dataclass(frozen=True)
class Reader:
    """How one API's answers are read. `added` are the fields that only the proof asked for."""

    whole: Callable[[bytes], Found]
    event: Callable[[bytes], Found]
    added: tuple[str, ...]

    def read(self, body: bytes, run: Run) -> str:
        """The text of an answer; its hashes go into `run`. Raises Upstream."""
        found = self.whole(body)
        _prove(run, found.token_ids, found.text or "")
        return found.text or ""

    def bare(self, body: bytes) -> bytes:
        """An answer, or an event's data, without what only the proof asked for."""
        if not any(b'"%b"' % name.encode() in body for name in self.added):
            return body
        answer: dict[str, Any] = msgspec.json.decode(body)  # it was read before: an object, its choices too
        for part in (answer, answer.get("response") or {}, *(answer.get("choices") or ())):
            for name in self.added:
                part.pop(name, None)
        return msgspec.json.encode(answer)


CHAT = Reader(_of_completion, _of_completion, ("prompt_token_ids", "token_ids"))
RESPONSES = Reader(_of_response, _of_response_event, ("input_messages", "output_messages"))


async def pass_on(
    response: httpx2.Response, run: Run, send: Send, reader: Reader, passage: Reading, *, ids_wanted: bool
) -> str:
    """Send the engine's answer on, as `passage` lets it; its text, and its hashes in `run`."""
    stream = response.headers.get("content-type", "").startswith("text/event-stream")
    headers = [(k.encode(), v.encode()) for k, v in response.headers.items() if k in PASSED_HEADERS]
    passage.status = response.status_code
    headers = passage.begins(headers)
    start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    if stream:
        await send(start)
        return await _stream(response, run, send, _Events(reader, whole=ids_wanted), passage)
    body = await response.aread()
    passage.passes(body)
    text = reader.read(body, run)
    if not ids_wanted:
        body = reader.bare(body)
    start["headers"] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
    return text


def _prove(run: Run, token_ids: list[int] | None, text: str) -> None:
    if token_ids is not None:
        run.prompt_tokens_sha256 = sha256(token_ids)
    run.output_sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


async def _stream(response: httpx2.Response, run: Run, send: Send, events: "_Events", passage: Reading) -> str:
    """The engine's events as they come; an engine that breaks off leaves an error event."""
    try:
        async for chunk in response.aiter_raw():
            if lines := events.feed(passage.passes(chunk)):
                await send({"type": "http.response.body", "body": lines, "more_body": True})
        if lines := events.feed(passage.rest()) + events.rest:
            await send({"type": "http.response.body", "body": lines, "more_body": True})
    except httpx2.HTTPError as exc:
        late = isinstance(exc, httpx2.TimeoutException)
        await send({"type": "http.response.body", "body": error_event(late), "more_body": True})
    text = "".join(events.text)
    _prove(run, events.token_ids, text)
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
