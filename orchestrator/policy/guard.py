"""A guard model: a second opinion on what the policy allows, where one is configured. It can refuse, never allow.

It is either a served model that answers /v1/moderations (GUARD_MODEL) or a recipe for one that answers in words, such
as Llama Guard or Qwen3Guard (GUARD_RECIPE). An opinion that cannot be had in time is a refusal.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx2
from msgspec.structs import replace
from prometheus_client import Counter

from core import untrusted
from core.errors import SoundstageError
from orchestrator.engines import answer as answers
from orchestrator.engines.chat_api import CHAT
from orchestrator.engines.client import Engines
from orchestrator.policy.decide import ADULT_TIER, CHECK_FAILED, Decision
from prompts.registry import Registry

log = logging.getLogger(__name__)

PIECE, OVERLAP = 8_000, 400  # characters: long texts are asked about in pieces that any guard's context holds
AT_ONCE = 4
IN_ONE_CALL = 32  # pieces of which moderations are asked together: a body of any length is written in short turns
OPINIONS = Counter("soundstage_guard_opinions_total", "What the guard model said.", ["outcome"])
ADULT = frozenset({"sexual"})
"""What a guard may find at tier 2, which is for it."""
_NAMES = {"s4": "sexual/minors", "s12": "sexual", "sexual content or sexual acts": "sexual"}
_VERDICT = re.compile(r"\b(unsafe|controversial|safe)\b", re.IGNORECASE)
_NOT_IN_NAMES = re.compile(r"[^a-z0-9/]+")


class OpinionError(Exception):
    """The guard answered, but not so that it can be understood."""


@dataclass(frozen=True)
class GuardSettings:
    """Who is asked, and how long it may take in seconds."""

    model: str
    recipe: str
    seconds: float


class _Requester(NamedTuple):
    """For whom the guard is asked."""

    tenant: str
    request_id: str
    trace: str | None


class Guard:
    """Asks for opinions. `model` and `recipe` may both be given: then both are asked."""

    def __init__(self, engines: Engines, registry: Registry, settings: GuardSettings) -> None:
        self._engines, self._registry, self._settings = engines, registry, settings
        self.name = "+".join(f"guard:{name}" for name in (settings.model, settings.recipe) if name)

    async def opinion(
        self, found: Decision, texts: Iterable[str], tenant: str, request_id: str, trace: str | None = None
    ) -> Decision:
        """The decision with the guard's opinion, and with its name: it shows who was asked. What fails is a refusal.
        `trace`: the `traceparent` that the guard is told."""
        category = await self._category(texts, found.tier, _Requester(tenant, request_id, trace))
        found = replace(found, policy=f"{found.policy}+{self.name}")
        return replace(found, action="refuse", category=category, constraints="") if category else found

    async def _category(self, texts: Iterable[str], tier: int, requester: "_Requester") -> str | None:
        """The category to refuse with, or None."""
        try:
            async with asyncio.timeout(self._settings.seconds):
                found = await self._ask(pieces("\n".join(texts)), tier, requester)
        except (SoundstageError, OpinionError, TimeoutError) as exc:
            why = {"request_id": requester.request_id, "reason": repr(exc)[:300]}
            log.warning("no opinion of the guard; refusing", extra=why)
            OPINIONS.labels("failed").inc()
            return CHECK_FAILED
        OPINIONS.labels("refuse" if found else "allow").inc()
        return found

    async def _ask(self, texts: Sequence[str], tier: int, requester: "_Requester") -> str | None:
        found: set[str] = set()
        if self._settings.model:
            found |= await self._by_moderations(self._settings.model, texts, tier, requester)
        if self._settings.recipe and not found:
            places = asyncio.Semaphore(AT_ONCE)

            async def one(text: str) -> set[str]:
                async with places:
                    return await self._by_recipe(text, tier, requester)

            for answer in await asyncio.gather(*map(one, texts), return_exceptions=True):
                if isinstance(answer, BaseException):
                    raise answer
                found |= answer
        return "sexual/minors" if "sexual/minors" in found else min(found, default=None)

    async def _by_moderations(self, model: str, texts: Sequence[str], tier: int, requester: "_Requester") -> set[str]:
        engine = self._engines.engine(model, "moderations", requester.request_id, trace=requester.trace)
        found: set[str] = set()
        async with engine as (client, name, _):
            for start in range(0, len(texts), IN_ONE_CALL):
                some = list(texts[start : start + IN_ONE_CALL])
                body = {"model": name, "input": some}
                answer = await client.post("/moderations", body=body, cast_to=httpx2.Response)
                found |= by_moderations(untrusted.decoded(answer.content), len(some), tier)
        return found

    async def _by_recipe(self, text: str, tier: int, requester: "_Requester") -> set[str]:
        release = await self._registry.resolve(self._settings.recipe, tenant=requester.tenant)
        tokens = self._engines.control_tokens(release.model)
        messages = release.render({"text": text}, tokens=tokens)
        engine = self._engines.engine(release.model, "chat", requester.request_id, trace=requester.trace)
        async with engine as (client, model, _), CHAT.call(client, model, messages, release.sampling) as response:
            body = await response.read()
        return by_words(answers.CHAT.whole(body).text or "", tier)


def pieces(text: str) -> list[str]:
    """The text in pieces that overlap, so that nothing is cut in two."""
    step = PIECE - OVERLAP
    return [text[start : start + PIECE] for start in range(0, max(1, len(text) - OVERLAP), step)]


def by_moderations(answer: Any, number: int, tier: int) -> set[str]:
    """The categories to refuse with, of an answer in the shape of OpenAI's moderations. Raises OpinionError."""
    results = answer.get("results") if isinstance(answer, Mapping) else None
    if not isinstance(results, list) or len(results) != number:
        raise OpinionError("its answer is not one result for each text")
    found: set[str] = set()
    for result in results:
        flagged = result.get("flagged") if isinstance(result, Mapping) else None
        if not isinstance(flagged, bool):
            raise OpinionError("a result says nothing")
        if flagged:
            categories = result.get("categories") or {}
            if not isinstance(categories, Mapping):
                raise OpinionError("its categories are none")
            found |= _refusing([name for name, hit in categories.items() if hit is True], tier)
    return found


def by_words(text: str, tier: int) -> set[str]:
    """The same of an answer in words: safe, unsafe or controversial, and categories after it. Raises OpinionError."""
    said = _VERDICT.search(text)
    if said is None:
        raise OpinionError("it says neither safe nor unsafe")
    verdict, rest = said[1].lower(), text[said.end() :].lower()
    if verdict == "safe":
        return set()
    named = [part.strip() for part in re.split(r"[,\n]", rest.replace("categories:", "")) if part.strip()]
    categories = [_NAMES.get(name, "guard/" + _NOT_IN_NAMES.sub("-", name)[:60]) for name in named if name != "none"]
    if verdict == "controversial" and tier >= ADULT_TIER and "sexual/minors" not in categories:
        return set()
    return _refusing(categories, tier)


def _refusing(categories: Sequence[str], tier: int) -> set[str]:
    """Those that refuse at this tier. What is flagged without a category refuses too."""
    plain = {_NOT_IN_NAMES.sub("-", name.lower())[:80] for name in categories} or {"guard"}
    return plain - ADULT if tier >= ADULT_TIER else plain
