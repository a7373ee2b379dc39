"""The older, plain way to ask a chat model: POST /chat, /enhance and /generate with `messages`."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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

    `sfw_mode` is counted and recorded; it changes nothing of what the model is sent.
    """

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
