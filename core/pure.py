"""The pure form of /chat, /enhance and /generate: read, made into an engine's request, its answer read.

The messages are never decoded and encoded again: the bytes that came are the bytes that go to the engine.
"""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from core.errors import InvalidRequest, Overloaded, SoundstageError, Unavailable, Unprocessable, Upstream
from core.json.canonical import read_messages
from core.parsing import parse
from core.untrusted import decoded, storable

PATHS = ("/chat", "/enhance", "/generate")
DEFAULT_TOKENS = {"/chat": 512, "/enhance": 200, "/generate": 512}
BASE = "qwen_base"


class PureMessage(BaseModel):
    """One message. It is passed on as it was sent, fields that are not named here included."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "user", "assistant", "tool", "developer", "function"]
    content: str | list[dict[str, Any]] | None = None


class PureRequest(BaseModel):
    """`max_tokens` None: the path's default. `model`: qwen_instruct, qwen_base, or a name of the worker's own.
    `sfw_mode` is counted and recorded; it changes nothing of what the model is sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    messages: list[PureMessage] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.9, gt=0, le=1)
    model: str = Field("qwen_instruct", min_length=1, max_length=200)
    sfw_mode: bool = False


class PureAnswer(BaseModel):
    """`generation_time` in seconds, `messages_sha256` of the messages as they were received (RFC 8785)."""

    success: Literal[True] = True
    response: str
    generation_time: float
    tokens_generated: int
    model: str
    finish_reason: str
    messages_sha256: str | None


class _Body(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str = ""
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage = msgspec.field(default_factory=_Usage)


_body = msgspec.json.Decoder(_Body).decode


@dataclass(frozen=True)
class PureCall:
    """One request: its fields as values, its messages as the bytes that came, and their hash."""

    request: PureRequest
    messages: bytes
    messages_sha256: str | None
    max_tokens: int

    def for_engine(self, model: str, *, base: bool) -> tuple[str, bytes]:
        """The engine's path and body. A base model gets the contents one after the other, and no chat template."""
        rest: dict[str, Any] = {
            "model": model,
            "max_tokens": self.max_tokens,
            "temperature": self.request.temperature,
            "top_p": self.request.top_p,
        }
        if base:
            return "/v1/completions", msgspec.json.encode({**rest, "prompt": self.prompt()})
        fields = msgspec.json.encode(rest)
        return "/v1/chat/completions", b'{"messages":' + self.messages + b"," + fields[1:]

    def prompt(self) -> str:
        """The contents one after the other, with nothing between. Raises Unprocessable where one is not text."""
        return "".join(_text(number, message.content) for number, message in enumerate(self.request.messages))

    def answer(self, body: bytes, model: str, seconds: float) -> PureAnswer:
        """Raises Upstream where the engine's answer cannot be read."""
        text, reason, tokens = _first(body)
        return PureAnswer(
            response=text,
            generation_time=round(seconds, 4),
            tokens_generated=tokens,
            model=model,
            finish_reason=reason,
            messages_sha256=self.messages_sha256,
        )


def text_of(body: bytes) -> str:
    """The first choice's text, which may be kept. Raises Upstream where an engine's answer cannot be read."""
    return storable(_first(body)[0])


def _first(body: bytes) -> tuple[str, str, int]:
    """Text, finish reason and tokens."""
    found = decoded(body, _Completion)
    if not found.choices:
        raise Upstream("The engine answered without a choice.", code="bad_upstream_answer")
    first = found.choices[0]
    said = first.message.content if first.message else first.text
    return said or "", first.finish_reason or "stop", found.usage.completion_tokens


def read(path: str, body: bytes, most_tokens: int) -> PureCall:
    """Raises InvalidRequest where the body is not JSON, Unprocessable where it has the wrong form."""
    request = parse(PureRequest, body, Unprocessable)
    try:
        raw = bytes(_body(body).messages)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest("The body is not valid JSON.", code="json_invalid") from exc
    wanted = request.max_tokens or min(DEFAULT_TOKENS[path], most_tokens)
    if wanted > most_tokens:
        raise Unprocessable(f"max_tokens: at most {most_tokens} here.", param="max_tokens", code="too_many_tokens")
    return PureCall(request, raw, read_messages(raw)[1], wanted)


def engine_error(status: int, body: bytes) -> SoundstageError:
    """What an engine's refusal or failure is to a caller: its own words where the request was wrong, else a 503."""
    if status >= 500:
        return Unavailable(f"The engine failed to answer ({status}).", code="engine_unavailable", retry_after=2)
    if status == 429:
        return Overloaded("The engine is full.", code="engine_full", retry_after=2)
    try:
        message = str(decoded(body)["error"]["message"])[:2000]
    except (Upstream, LookupError, TypeError):
        message = f"The engine refused ({status})."
    return Unprocessable(message, code="engine_refused")


def legacy_body(exc: SoundstageError, **fields: Any) -> dict[str, Any]:
    """The error envelope with what older callers look for: `success` and, where they know it, their own fields."""
    return {**exc.envelope(), "success": False, **fields}


def _text(number: int, content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, str):
        return content
    parts = content or []
    if all(isinstance(part.get("text"), str) for part in parts):
        return "".join(part["text"] for part in parts)
    where = f"messages.{number}.content"
    raise Unprocessable(f"{where}: a base model reads text only.", param=where, code="text_only")
