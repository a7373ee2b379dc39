"""How a worker announces itself to the orchestrator: POST /v1/workers, again at every heartbeat."""

from typing import Annotated, Literal

from pydantic import AfterValidator, AnyHttpUrl, BaseModel, ConfigDict, Field

from core.addresses import may_serve
from core.control_tokens import MAX_LENGTH, MAX_TOKENS

MAX_LEASE_SECONDS = 86_400.0
Kind = Literal["chat", "image", "selfie"]
Ability = Literal[
    "chat",
    "completions",
    "responses",
    "embeddings",
    "tokenize",
    "moderations",
    "images",
    "image_edits",
    "vision",
    "faces",
]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.:/@+-]+$")]

Strategy = Literal["round_robin", "least_outstanding", "power_of_two", "affinity"]
"""Which worker of a pool takes a request."""


def _resolvable(url: AnyHttpUrl) -> AnyHttpUrl:
    host = url.host or ""
    try:
        host.encode("idna")
    except UnicodeError as exc:
        raise ValueError("a host whose parts have 1 to 63 characters") from exc
    try:
        serves = may_serve(host)
    except ValueError:
        return url  # a name: each of its addresses is judged on connect
    if not serves:
        raise ValueError("an address that a server may have: none that is link-local, of a group, or a cloud's own")
    return url


ControlToken = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH, pattern=r"^[^\x00]+$")]
ServerUrl = Annotated[AnyHttpUrl, AfterValidator(_resolvable)]


class ServedModel(BaseModel):
    """A model that a worker answers for now. `aliases` are names that the worker itself accepts for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Name
    aliases: tuple[Name, ...] = ()
    abilities: tuple[Ability, ...] = ()
    max_model_len: int | None = Field(default=None, ge=1, description="Context length in tokens, where it has one.")
    control_tokens: tuple[ControlToken, ...] | None = Field(
        default=None,
        max_length=MAX_TOKENS,
        description="What the model's tokenizer reads as structure; refused in messages. None: the common forms are.",
    )


class Announcement(BaseModel):
    """A worker as it is now. Sent at start and every few seconds; the same id replaces what was known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Name = Field(description="Chosen by the worker at its start; stable while the process lives.")
    kind: Kind
    url: ServerUrl = Field(description="Where the orchestrator reaches the worker, without /v1.")
    models: tuple[ServedModel, ...] = Field(default=(), max_length=64)
    roles: tuple[Name, ...] = Field(
        default=(), max_length=16, description="Pools the worker serves: profile, chat1to1, …."
    )
    capacity: int = Field(default=8, ge=1, le=100_000, description="Requests it runs or queues at once.")
    queue_depth: int | None = Field(
        default=None, ge=0, description="Requests it runs or queues as it says this; None: not told."
    )
    ready: bool = True
    draining: bool = False


class Lease(BaseModel):
    """The answer: the registration holds for `lease_seconds` after now."""

    id: str
    lease_seconds: float = Field(gt=0, le=MAX_LEASE_SECONDS, allow_inf_nan=False)
    heartbeat_seconds: float = Field(gt=0, le=MAX_LEASE_SECONDS, allow_inf_nan=False)
