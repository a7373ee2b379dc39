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

from prometheus_client import Counter

from core.errors import ContentPolicy, NotFound, Overloaded, SoundstageError, Unavailable, Upstream
from core.pure import text_of
from orchestrator.access.limits import RateLimited
from orchestrator.legacy.enhance.cache import CachedPrompt, EnhancementCache, Source, key_of
from orchestrator.legacy.enhance.compress import compress
from orchestrator.legacy.enhance.flights import Flights
from orchestrator.legacy.enhance.job_types import JobType
from orchestrator.legacy.enhance.phrases import content_words, tidy
from orchestrator.legacy.enhance.score import checks_of, score
from orchestrator.legacy.enhance.tokens import Counters
from orchestrator.policy.floor import Surface
from orchestrator.recipes.messages import MessageRunner
from orchestrator.recipes.recipe import RecipeRunner
from orchestrator.runs.caller import Caller
from prompts.registry import PRODUCTION, Registry

log = logging.getLogger(__name__)

LADDER = Counter("soundstage_enhancements_total", "Enhanced prompts, by job type and rung.", ["job_type", "source"])
AWAY = (Unavailable, Upstream, Overloaded, NotFound, TimeoutError)
_PREAMBLE = re.compile(
    r"^\s*(?:sure|certainly|of course|okay|ok)?[,!.:\s]*"
    r"(?:here(?:'s| is| are)[^:\n]{0,60}:|(?:enhanced |final )?prompt:)\s*",
    re.IGNORECASE,
)
_QUOTES = "\"'`“”‘’*"


@dataclass(frozen=True)
class PromptTask:
    """What is asked for."""

    prompt: str
    job: JobType
    quality: str = "fast"
    system_prompt: str | None = None
    context: str | None = None

    @property
    def surface(self) -> Surface:
        return "text" if self.job.family == "chat" else "image"


@dataclass(frozen=True)
class Enhancement:
    """`tokens` by the family's counter; `checks` are the job type's."""

    text: str
    source: Source
    cache_hit: bool
    seconds: float
    tokens: int
    score: float
    checks: Mapping[str, bool]


class Enhancer:
    """One for each process. Equal requests that run at the same time are one, here and at other orchestrators."""

    def __init__(
        self,
        runner: MessageRunner,
        recipes: RecipeRunner,
        registry: Registry,
        *,
        cache: EnhancementCache,
        counters: Counters,
    ) -> None:
        self._runner, self._recipes, self._registry = runner, recipes, registry
        self.cache, self.counters = cache, counters
        self._shared = Flights(cache)
        self._flights: dict[tuple[str, ...], asyncio.Task[CachedPrompt]] = {}

    async def enhance(self, task: PromptTask, caller: Caller) -> Enhancement:
        """Raises Refused, and InvalidRequest where the recipe does not take the prompt."""
        started, job = time.perf_counter(), task.job
        await self._judge(task, caller)
        key = await self._key(task, caller)
        cached = await self.cache.get(key) if key else None
        made = cached or await self._make_once(key, task, caller)
        text = await self._fit(task, caller, made.text)
        tokens = await asyncio.to_thread(self.counters.of(job.family), text)
        LADDER.labels(job.name, made.source).inc()
        return Enhancement(
            text=text,
            source=made.source,
            cache_hit=cached is not None,
            seconds=time.perf_counter() - started,
            tokens=tokens,
            score=score(task.prompt, text, job, tokens=tokens),
            checks=checks_of(text, job.checks),
        )

    async def plain(self, task: PromptTask, caller: Caller) -> tuple[CachedPrompt, float]:
        """The ladder alone, and the seconds it took: no cache, no compression, no score."""
        started = time.perf_counter()
        await self._judge(task, caller)
        made = await self._climb(task, caller)
        await self._judge(task, caller, made.text)
        LADDER.labels(task.job.name, made.source).inc()
        return made, time.perf_counter() - started

    async def _judge(self, task: PromptTask, caller: Caller, made: str | None = None) -> str:
        """What was asked for, and with it what was made of it, which is recorded; the constraints that belong to it.
        Raises Refused."""
        texts = [task.prompt, task.context or "", task.system_prompt or "", made or ""]
        # From the cache and in an emergency there is no other record.
        async with self._recipes.judge.call(caller, recorded=made is not None) as call:
            decision = await call.judge(
                list(filter(None, texts)), task.surface, recipe_tier=task.job.tier, last=made is not None
            )
            if made is not None:
                call.run.constraints_added = decision.constraints or None
                call.run.output_sha256 = hashlib.sha256(made.encode("utf-8", "surrogatepass")).hexdigest()
        return decision.constraints

    async def _key(self, task: PromptTask, caller: Caller) -> str | None:
        """Of the cache; None where the release is not known now: then nothing is looked up."""
        try:
            release = await self._registry.resolve(
                task.job.recipe, PRODUCTION, tenant=caller.key.tenant, sticky=caller.sticks_to
            )
        except Unavailable:
            return None
        asked = (task.prompt, task.job.name, task.quality, task.context, task.system_prompt)
        return key_of(caller.key.tenant, *asked, release.sha256)

    async def _make_once(self, key: str | None, task: PromptTask, caller: Caller) -> CachedPrompt:
        """Make it once for all who ask for the same at the same time."""
        if key is None:
            return await self._climb(task, caller)
        name = (key, caller.key.id, str(caller.asked_tier))
        flight = self._flights.get(name)
        if flight is None:
            flight = asyncio.ensure_future(self._make(key, task, caller))
            self._flights[name] = flight
            flight.add_done_callback(lambda done: self._end_flight(name, done))
        return await asyncio.shield(flight)

    def _end_flight(self, name: tuple[str, ...], done: "asyncio.Task[CachedPrompt]") -> None:
        self._flights.pop(name, None)
        if not done.cancelled():
            done.exception()  # who waited has it; where nobody does any more, it is no news

    async def _make(self, key: str, task: PromptTask, caller: Caller) -> CachedPrompt:
        async with self._shared.claimed(key, task.job.seconds) as found:
            if found is not None:
                return found
            made = await self._climb(task, caller)
            if made.source != "emergency_fallback":
                await self.cache.put(key, caller.key.tenant, task.job.name, made)
            return made

    # -- the ladder -----------------------------------------------------------------------------------------------

    async def _climb(self, task: PromptTask, caller: Caller) -> CachedPrompt:
        rungs: list[tuple[Source, Callable[[], Awaitable[str]]]] = []
        if task.system_prompt:
            rungs.append(("edge_function", lambda: self._by_caller(task, caller)))
        rungs.append(("worker_fallback", lambda: self._by_recipe(task, caller)))
        for source, ask in rungs:
            try:
                async with asyncio.timeout(task.job.seconds):
                    text = clean(await ask())
            except (ContentPolicy, RateLimited):
                raise
            except AWAY as exc:
                why = exc.message if isinstance(exc, SoundstageError) else "it took too long"
                log.warning("enhancement goes one step down", extra={"from": source, "why": why})
                continue
            if text:
                return CachedPrompt(text, source)
        return CachedPrompt(tidy(task.prompt), "emergency_fallback")

    async def _by_caller(self, task: PromptTask, caller: Caller) -> str:
        asked = task.prompt if not task.context else f"{task.prompt}\n\n{task.context}"
        messages = [{"role": "system", "content": task.system_prompt or ""}, {"role": "user", "content": asked}]
        fields = {"max_tokens": task.job.max_tokens, "temperature": 0.7, "top_p": 0.9}
        body, _ = await self._runner.chat(task.job.model, messages, fields, caller)
        return text_of(body)

    async def _by_recipe(self, task: PromptTask, caller: Caller) -> str:
        if task.job.conversation:
            turn = [{"role": "user", "content": task.prompt}]
            return (await self._recipes.text(task.job.recipe, {}, caller, turn, surface=task.surface))[0]
        variables = {"prompt": task.prompt, **({"context": task.context} if task.context else {})}
        return (await self._recipes.text(task.job.recipe, variables, caller, surface=task.surface))[0]

    async def _fit(self, task: PromptTask, caller: Caller, text: str) -> str:
        """The subject is there, the tokens fit, and the policy's constraints stand at its end."""
        job = task.job
        if job.target is None:
            await self._judge(task, caller, text)
            return text
        wanted = set(content_words(task.prompt))
        if wanted and not wanted & set(content_words(text)):
            text = f"{tidy(task.prompt)}, {text}"
        constraints = await self._judge(task, caller, text)
        count = self.counters.of(job.family)
        room = job.target - (count(constraints) + 1 if constraints else 0)
        fitted = await asyncio.to_thread(compress, text, max(1, room), count, wanted)
        return f"{fitted} {constraints}" if constraints else fitted


def clean(text: str) -> str:
    """A model's answer without what it says around the prompt: a preamble, quotation marks, empty space, and NULs,
    which are not kept."""
    bare = _PREAMBLE.sub("", text.replace("\x00", "").strip(), count=1).strip()
    if len(bare) > 1 and bare[0] in _QUOTES and bare[-1] in _QUOTES:
        bare = bare.strip(_QUOTES)
    return tidy(bare)


def with_tier_of(job: JobType, caller: Caller) -> Caller:
    """The caller at the tier that the job type asks for, or the lower one that the caller did."""
    asked = job.tier if caller.asked_tier is None else min(job.tier, caller.asked_tier)
    return replace(caller, asked_tier=asked)
