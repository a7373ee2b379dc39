"""Enhance a prompt: judge it, look it up, else make it by the ladder; then fit it to its model and score it.

The ladder: the caller's own system prompt (edge_function), the recipe in the database (worker_fallback), the caller's
own words, tidied (emergency_fallback). A refusal by policy ends it; an engine that fails or is late leads one step
down.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from prometheus_client import Counter

from core.errors import ContentPolicy, NotFound, Overloaded, SoundstageError, Unavailable, Upstream
from core.pure import text_of
from orchestrator.access.limits import RateLimited
from orchestrator.legacy.enhance.cache import Cached, EnhancementCache, key_of
from orchestrator.legacy.enhance.compress import compress
from orchestrator.legacy.enhance.flights import Flights
from orchestrator.legacy.enhance.job_types import JobType
from orchestrator.legacy.enhance.phrases import content_words, tidy
from orchestrator.legacy.enhance.score import passed, score
from orchestrator.legacy.enhance.tokens import Counters
from orchestrator.recipes.messages import MessageRunner
from orchestrator.recipes.recipe import RecipeRunner
from orchestrator.runs.caller import Caller
from prompts.registry import PRODUCTION, Registry

log = logging.getLogger(__name__)

Source = Literal["edge_function", "worker_fallback", "emergency_fallback"]
LADDER = Counter("soundstage_enhancements_total", "Enhanced prompts, by job type and rung.", ["job_type", "source"])
AWAY = (Unavailable, Upstream, Overloaded, NotFound, TimeoutError)
_PREAMBLE = re.compile(
    r"^\s*(?:sure|certainly|of course|okay|ok)?[,!.:\s]*"
    r"(?:here(?:'s| is| are)[^:\n]{0,60}:|(?:enhanced |final )?prompt:)\s*",
    re.IGNORECASE,
)
_QUOTES = "\"'`“”‘’*"


@dataclass(frozen=True)
class Wish:
    """What is asked for."""

    prompt: str
    job: JobType
    quality: str = "fast"
    system_prompt: str | None = None
    context: str | None = None


@dataclass(frozen=True)
class Enhanced:
    """`tokens` by the family's counter; `found` are the job type's checks."""

    text: str
    source: Source
    cache_hit: bool
    seconds: float
    tokens: int
    score: float
    found: Mapping[str, bool]


class Enhancer:
    """One for each process. Equal requests that run at the same time are one, here and at other orchestrators."""

    def __init__(
        self,
        runner: MessageRunner,
        recipes: RecipeRunner,
        registry: Registry,
        cache: EnhancementCache,
        counters: Counters,
    ) -> None:
        self._runner, self._recipes, self._registry = runner, recipes, registry
        self.cache, self.counters = cache, counters
        self._shared = Flights(cache)
        self._flights: dict[tuple[str, ...], asyncio.Task[Cached]] = {}

    async def enhance(self, wish: Wish, caller: Caller) -> Enhanced:
        """Raises Refused, and InvalidRequest where the recipe does not take the prompt."""
        started = time.perf_counter()
        await self._judge(wish, caller)
        key = await self._key(wish, caller)
        cached = await self.cache.get(key) if key else None
        made = cached or await self._together(key, wish, caller)
        text = await self._fitted(wish, caller, made)
        counted = await asyncio.to_thread(self.counters.of(wish.job.family), text)
        job = wish.job
        points = score(
            wish.prompt,
            text,
            family=job.family,
            tokens=counted,
            least=job.least,
            target=job.target,
            checks=job.checks,
        )
        LADDER.labels(job.name, made.source).inc()
        seconds = time.perf_counter() - started
        source: Any = made.source
        return Enhanced(text, source, cached is not None, seconds, counted, points, passed(text, job.checks))

    async def plain(self, wish: Wish, caller: Caller) -> tuple[str, Source, float]:
        """The ladder alone: no cache, no compression, no score."""
        started = time.perf_counter()
        await self._judge(wish, caller)
        made = await self._climb(wish, caller)
        await self._judge(wish, caller, made.text)
        LADDER.labels(wish.job.name, made.source).inc()
        source: Any = made.source
        return made.text, source, time.perf_counter() - started

    async def _judge(self, wish: Wish, caller: Caller, made: str | None = None) -> str:
        """What was asked for, and with it what was made of it, which is recorded; the constraints that belong to it.

        Raises Refused."""
        judge = self._recipes.judge
        run = judge.begin(caller)
        said = [wish.prompt, wish.context or "", wish.system_prompt or "", made or ""]
        surface: Literal["image", "text"] = "text" if wish.job.family == "chat" else "image"
        decision = await judge.admit(
            run, caller, [text for text in said if text], surface, recipe_tier=wish.job.tier, last=made is not None
        )
        if made is not None:  # from the cache and in an emergency there is no other record
            run.constraints_added = decision.constraints or None
            run.output_sha256 = hashlib.sha256(made.encode("utf-8", "surrogatepass")).hexdigest()
            judge.settle(run, 200)
        return decision.constraints

    async def _key(self, wish: Wish, caller: Caller) -> str | None:
        """Of the cache; None where the release is not known now: then nothing is looked up."""
        made_by = wish.system_prompt
        try:
            release = await self._registry.resolve(
                wish.job.recipe, PRODUCTION, tenant=caller.key.tenant, sticky=caller.sticks_to
            )
        except Unavailable:
            return None
        asked = (wish.prompt, wish.job.name, wish.quality, wish.context)
        return key_of(caller.key.tenant, *asked, made_by, release.sha256)

    async def _together(self, key: str | None, wish: Wish, caller: Caller) -> Cached:
        """Make it once for all who ask for the same at the same time."""
        if key is None:
            return await self._climb(wish, caller)
        name = (key, caller.key.id, str(caller.asked_tier))
        flight = self._flights.get(name)
        if flight is None:
            flight = asyncio.ensure_future(self._made(key, wish, caller))
            self._flights[name] = flight
            flight.add_done_callback(lambda done: self._landed(name, done))
        return await asyncio.shield(flight)

    def _landed(self, name: tuple[str, ...], done: "asyncio.Task[Cached]") -> None:
        self._flights.pop(name, None)
        if not done.cancelled():
            done.exception()  # who waited has it; where nobody does any more, it is no news

    async def _made(self, key: str, wish: Wish, caller: Caller) -> Cached:
        async with self._shared.claimed(key, wish.job.seconds) as found:
            if found is not None:
                return found
            made = await self._climb(wish, caller)
            if made.source != "emergency_fallback":
                await self.cache.put(key, caller.key.tenant, wish.job.name, made)
            return made

    # -- the ladder -----------------------------------------------------------------------------------------------

    async def _climb(self, wish: Wish, caller: Caller) -> Cached:
        rungs: list[tuple[Source, Callable[[], Awaitable[str]]]] = []
        if wish.system_prompt:
            rungs.append(("edge_function", lambda: self._by_caller(wish, caller)))
        rungs.append(("worker_fallback", lambda: self._by_recipe(wish, caller)))
        for source, ask in rungs:
            try:
                async with asyncio.timeout(wish.job.seconds):
                    text = cleaned(await ask())
            except (ContentPolicy, RateLimited):
                raise
            except AWAY as exc:
                why = exc.message if isinstance(exc, SoundstageError) else "it took too long"
                log.warning("enhancement goes one step down", extra={"from": source, "why": why})
                continue
            if text:
                return Cached(text, source)
        return Cached(tidy(wish.prompt), "emergency_fallback")

    async def _by_caller(self, wish: Wish, caller: Caller) -> str:
        asked = wish.prompt if not wish.context else f"{wish.prompt}\n\n{wish.context}"
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": wish.system_prompt},
            {"role": "user", "content": asked},
        ]
        fields = {"max_tokens": wish.job.max_tokens, "temperature": 0.7, "top_p": 0.9}
        body, _ = await self._runner.chat(wish.job.model, messages, fields, caller)
        return text_of(body)

    async def _by_recipe(self, wish: Wish, caller: Caller) -> str:
        surface: Literal["image", "text"] = "text" if wish.job.family == "chat" else "image"
        if wish.job.conversation:
            turn = [{"role": "user", "content": wish.prompt}]
            return (await self._recipes.text(wish.job.recipe, {}, caller, turn, surface=surface))[0]
        variables = {"prompt": wish.prompt, **({"context": wish.context} if wish.context else {})}
        return (await self._recipes.text(wish.job.recipe, variables, caller, surface=surface))[0]

    async def _fitted(self, wish: Wish, caller: Caller, made: Cached) -> str:
        """The subject is there, the tokens fit, and the policy's constraints stand at its end."""
        job, text = wish.job, made.text
        if job.target is None:
            await self._judge(wish, caller, text)
            return text
        wanted = set(content_words(wish.prompt))
        if wanted and not wanted & set(content_words(text)):
            text = f"{tidy(wish.prompt)}, {text}"
        constraints = await self._judge(wish, caller, text)
        count = self.counters.of(job.family)
        room = job.target - (count(constraints) + 1 if constraints else 0)
        fitted = await asyncio.to_thread(compress, text, max(1, room), count, wanted)
        return f"{fitted} {constraints}" if constraints else fitted


def cleaned(text: str) -> str:
    """A model's answer without what it says around the prompt: a preamble, quotation marks, empty space, and NULs,
    which are not kept."""
    bare = _PREAMBLE.sub("", text.replace("\x00", "").strip(), count=1).strip()
    if len(bare) > 1 and bare[0] in _QUOTES and bare[-1] in _QUOTES:
        bare = bare.strip(_QUOTES)
    return tidy(bare)


def asking(caller: Caller, job: JobType) -> Caller:
    """The caller at the tier that the job type asks for, or the lower one that the caller did."""
    asked = job.tier if caller.asked_tier is None else min(job.tier, caller.asked_tier)
    return replace(caller, asked_tier=asked)
