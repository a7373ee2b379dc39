"""Selfies on their way to a selfie worker: held in memory, wiped when they are not needed any more."""

import contextlib
import hashlib
from typing import Any, Literal

import httpx2
import msgspec

from core import untrusted
from orchestrator.access.limits import Needs
from orchestrator.engines.client import Engines
from orchestrator.gateway import costs
from orchestrator.gateway.body import Peek
from orchestrator.runs.call import WORKER_HEADER
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import Run
from prompts.render import Message

FORM_SECONDS = 60.0


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


class SelfieAnswer(msgspec.Struct):
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
) -> SelfieAnswer:
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
    seen = untrusted.decoded(answer.content, SelfieAnswer)
    untrusted.storable_json(answer.content)
    seen.messages_sha256 = answer.headers.get(WORKER_HEADER)
    return seen
