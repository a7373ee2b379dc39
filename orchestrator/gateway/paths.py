"""The relayed paths: who answers each, who may ask it, and how it is read."""

from typing import NamedTuple

from core.wire.workers import Ability
from orchestrator.access.keys import Scope
from orchestrator.policy.floor import Surface


class Path(NamedTuple):
    """`ability`: what its worker must have declared; `scope`: what its caller's key must have; `surface`: as what it is
    judged, None: not at all; `form`: multipart with a picture, so its subject is real; `named`: its body names a model;
    `draws`: its workers share their steps between tenants, and its answer is paid by the picture."""

    ability: Ability
    scope: Scope
    surface: Surface | None = None
    form: bool = False
    named: bool = True
    draws: bool = False


CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
SELFIES = "/v1/profile/analyze"
RECIPE_PATHS = frozenset({CHAT, RESPONSES})
PATHS = {
    CHAT: Path("chat", "chat", "text"),
    COMPLETIONS: Path("completions", "chat", "text"),
    RESPONSES: Path("responses", "chat", "text"),
    "/v1/embeddings": Path("embeddings", "chat"),
    "/tokenize": Path("tokenize", "chat"),
    "/detokenize": Path("tokenize", "chat"),
    "/v1/images/generations": Path("images", "images", "image", named=False, draws=True),
    "/v1/images/edits": Path("image_edits", "images", "image", form=True, named=False, draws=True),
    SELFIES: Path("faces", "pipelines", "text", form=True, named=False),
}
