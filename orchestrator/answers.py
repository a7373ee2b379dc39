"""An engine's answer to a recipe: passed on, read for its proof. JSON gets all of it in headers; a stream what is known
when it begins, and the rest in a last SSE comment, which every SDK skips."""

import hashlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httpx2
import msgspec

from core.canonical import sha256
from core.errors import Upstream
from core.relay import error_event
from orchestrator.runs import Run

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
PASSED_HEADERS = frozenset({"content-type", "content-encoding"})


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Delta | None = None
    delta: _Delta | None = None


class _Answer(msgspec.Struct):
    """What is read of a completion or of one event of its stream."""

    choices: list[_Choice] = []
    prompt_token_ids: list[int] | None = None


_read = msgspec.json.Decoder(_Answer).decode


async def pass_on(response: httpx2.Response, run: Run, send: Send, *, ids_wanted: bool) -> str:
    """Send the engine's answer on; the text of its first choice, and its hashes in `run`."""
    stream = response.headers.get("content-type", "").startswith("text/event-stream")
    headers = [(k.encode(), v.encode()) for k, v in response.headers.items() if k in PASSED_HEADERS]
    start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    if stream:
        await send(start)
        return await _stream(response, run, send)
    body = await response.aread()
    text = read(body, run)
    if not ids_wanted:
        body = without_token_ids(body)
    start["headers"] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
    return text


def read(body: bytes, run: Run) -> str:
    """The text of a completion's first choice; its hashes go into `run`. Raises Upstream."""
    try:
        answer = _read(body)
    except msgspec.DecodeError as exc:
        raise Upstream("The engine's answer could not be read.", code="bad_upstream_answer") from exc
    first = next((choice for choice in answer.choices if choice.index == 0), _Choice())
    text = (first.message.content if first.message else None) or ""
    _prove(run, answer.prompt_token_ids, text)
    return text


def without_token_ids(body: bytes) -> bytes:
    """The answer without what only the proof asked for."""
    answer: dict[str, Any] = msgspec.json.decode(body)
    for part in (answer, *answer.get("choices", ())):
        for name in ("prompt_token_ids", "token_ids"):
            part.pop(name, None)
    return msgspec.json.encode(answer)


def _prove(run: Run, token_ids: list[int] | None, text: str) -> None:
    if token_ids is not None:
        run.prompt_tokens_sha256 = sha256(token_ids)
    run.output_sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


async def _stream(response: httpx2.Response, run: Run, send: Send) -> str:
    """The engine's bytes as they come; an engine that breaks off leaves an error event."""
    reader = _Events()
    try:
        async for chunk in response.aiter_raw():
            reader.feed(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx2.HTTPError as exc:
        late = isinstance(exc, httpx2.TimeoutException)
        await send({"type": "http.response.body", "body": error_event(late), "more_body": True})
    text = "".join(reader.text)
    _prove(run, reader.token_ids, text)
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
    """Reads a stream beside its passing: the first choice's text and the prompt's token ids."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.token_ids: list[int] | None = None
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and b"[DONE]" not in line[:14]:
                self._event(line[5:])

    def _event(self, data: bytes) -> None:
        try:
            event = _read(data)
        except msgspec.DecodeError:
            return  # not a chunk of a completion: passed on all the same
        self.token_ids = event.prompt_token_ids or self.token_ids
        for choice in event.choices:
            if choice.index == 0 and choice.delta and choice.delta.content:
                self.text.append(choice.delta.content)
