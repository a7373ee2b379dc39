"""Selfies on their way to a selfie worker: held in memory, wiped when they are not needed any more."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

import httpx2
import msgspec
from starlette.types import Scope

from core import untrusted
from core.errors import InvalidRequest
from core.http.form import Field, read_form
from orchestrator.access.limits import Needs
from orchestrator.engines.client import Engines
from orchestrator.gateway import costs
from orchestrator.gateway.body import Peek
from orchestrator.runs.caller import Caller
from orchestrator.runs.judge import WORKER_HEADER
from orchestrator.runs.record import Run
from prompts.render import Message

FORM_SECONDS = 60.0
QUESTIONS = {name: Field(256 << 10) for name in ("messages", "schema", "sampling", "repair", "portrait")}


class Selfie:
    """A picture as it was sent. Leaving its block overwrites it, whatever happened inside."""

    def __init__(self, data: bytearray) -> None:
        self._data = data
        self.sha256 = hashlib.sha256(data).hexdigest()

    def content(self) -> bytes:
        return bytes(self._data)

    def wipe(self) -> None:
        self._data[:] = bytes(len(self._data))
        self._data.clear()

    def __enter__(self) -> "Selfie":
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()


class Feature(msgspec.Struct):
    value: str | bool
    confidence: float | None = None
    source: str = ""


class Seen(msgspec.Struct):
    """A selfie worker's answer. `face` and `warnings` are passed on as they are."""

    features: dict[str, Feature]
    face: dict[str, Any]
    warnings: list[Any] = []
    apparent_age: Literal["minor", "ambiguous", "adult", "unknown"] = "unknown"
    vision_model: str | None = None
    portrait: str | None = None
    usage: msgspec.Raw = msgspec.Raw()  # of its vision model, all questions together
    messages_sha256: str | None = None


class Question(msgspec.Struct):
    """What the worker is to ask a vision model, if it has one."""

    messages: list[Message]
    schema: dict[str, Any]
    sampling: dict[str, Any]
    repair: str

    def needs(self) -> Needs:
        """What asking it may take at most."""
        return costs.photo(len(msgspec.json.encode(self)), self.sampling.get("max_tokens"))


class _Sampling(msgspec.Struct):
    max_tokens: Any = None


def photo_needs(found: Peek) -> Needs:
    """The same of a form that a caller sent; one without messages asks no model."""
    if not bytes(found.messages):
        return Needs()
    longest: object = None
    for sent in msgspec.json.decode(bytes(found.documents) or b"[]", type=list[msgspec.Raw]):
        with contextlib.suppress(msgspec.DecodeError):
            longest = msgspec.json.decode(sent, type=_Sampling).max_tokens or longest
    return costs.photo(len(bytes(found.messages)) + len(bytes(found.documents)), longest)


async def analyze(
    engines: Engines, selfie: Selfie, question: Question, caller: Caller, run: Run, *, portrait: bool
) -> Seen:
    """Asks a selfie worker, which `run` notes. Its refusals of a picture are raised as they are."""
    form = {
        "messages": msgspec.json.encode(question.messages).decode(),
        "schema": msgspec.json.encode(question.schema).decode(),
        "sampling": msgspec.json.encode(question.sampling).decode(),
        "repair": question.repair,
        "portrait": "true" if portrait else "false",
    }
    async with engines.engine(None, "faces", caller.request_id, **caller.place) as (client, _, worker):
        run.worker = worker
        answer = await client.post(
            "/profile/analyze",
            body=form,
            files={"image": ("selfie", selfie.content())},
            options={"headers": {"content-type": "multipart/form-data"}},
            cast_to=httpx2.Response,
        )
    seen = untrusted.decoded(answer.content, Seen)
    untrusted.storable_json(answer.content)
    seen.messages_sha256 = answer.headers.get(WORKER_HEADER)
    return seen


async def peek_form(scope: Scope, body: bytes) -> Peek:
    """What the gateway reads of a form on its way to a selfie worker: the texts that a model will see."""
    kind = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    fields = {"image": Field(len(body), file=True, required=True), **QUESTIONS}
    form = await read_form(kind, _whole(body), fields, FORM_SECONDS)
    found = Peek()
    if "messages" in form:
        found.messages = _json("messages", form)
    others = [_json(name, form) for name in ("schema", "sampling") if name in form]
    if "repair" in form:
        others.append(msgspec.Raw(msgspec.json.encode(form["repair"].decode("utf-8", "replace"))))
    if others:
        found.documents = msgspec.Raw(msgspec.json.encode(others))
    return found


def selfie_texts(found: Peek) -> bytes:
    """The same as a body of JSON."""
    given = {name: raw for name, raw in (("messages", found.messages), ("documents", found.documents)) if bytes(raw)}
    return msgspec.json.encode(given)


def _json(name: str, form: Mapping[str, bytearray]) -> msgspec.Raw:
    """A field that is JSON, as it is. Raises InvalidRequest."""
    try:
        msgspec.json.decode(form[name])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{name}: not valid JSON.", param=name, code="json_invalid") from exc
    return msgspec.Raw(bytes(form[name]))


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body
