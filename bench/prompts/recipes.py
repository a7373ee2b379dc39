"""Ten thousand recipes of four messages: kept in the database, resolved, rendered."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import jinja2
import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.prompts.clock import timed
from core.db.pool import Pool
from prompts.registry import Registry
from prompts.sources import MessageSource, RecipeSource
from prompts.store import import_recipes

RECIPES = 10_000
EVERY = 5  # of them one is resolved
SAVED = 20  # recipes that are kept as a user keeps them: checked and tried out
BATCH = 10  # recipes copied in one transaction: of a long one, each entry of the audit chain would visit all before it
AT_ONCE = 100
TEXTS = (
    "You are {{ name | default('a friendly assistant') }}. Answer warmly, truthfully and in a few sentences.",
    "What was said before: {{ context }}",
    "I have read it. What is the message?",
    "{% if context %}With that in mind: {% endif %}{{ message }}",
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["message", "context"],
    "additionalProperties": False,
    "properties": {
        "message": {"type": "string", "minLength": 1, "maxLength": 4000},
        "context": {"type": "string", "minLength": 1, "maxLength": 4000},
        "name": {"type": "string", "minLength": 1, "maxLength": 80},
    },
}
VARIABLES = {"message": "Where shall we go on Sunday? " * 4, "context": "We spoke of the sea and of trains. " * 8}

# Copies of the first recipe, each with texts of its own.
COPIES = (
    "insert into recipes (name) select 'bench-' || n from generate_series({a}, {b}) n",
    "insert into templates (name) select 'bench-' || n || '/' || m from generate_series({a}, {b}) n,"
    " generate_series(0, 3) m",
    "insert into template_versions (template, version, body, variables, sha256)"
    " select 'bench-' || n || '/' || m, 1, t.body || ' ' || n, t.variables,"
    " encode(sha256(convert_to(t.body || ' ' || n, 'utf8')), 'hex') from generate_series({a}, {b}) n,"
    " generate_series(0, 3) m join template_versions t on t.template = 'bench-0/' || m",
    "insert into releases (recipe, version, model, sampling, variables, sha256)"
    " select 'bench-' || n, 1, model, sampling, variables, sha256 from generate_series({a}, {b}) n, releases"
    " where recipe = 'bench-0'",
    "insert into release_messages (recipe, version, position, role, template, template_version)"
    " select 'bench-' || n, 1, position, role, 'bench-' || n || '/' || position, 1"
    " from generate_series({a}, {b}) n, release_messages where recipe = 'bench-0'",
    "insert into labels (recipe, name, version) select 'bench-' || n, 'production', 1 from generate_series({a}, {b}) n",
)


@dataclass(frozen=True)
class Kept:
    """`saved_ms`: one recipe, checked and tried out as a user's is. `seconds`: all of them, copied in the database,
    where every constraint, trigger and audit entry is made for each."""

    saved_ms: float
    seconds: float


@dataclass(frozen=True)
class Resolved:
    """`first_ms`: a recipe looked up and compiled, of `number`; `megabytes`: what these take in memory, compiled; then
    from the cache, in µs; `bare_us`: the same text by bare Jinja alone."""

    number: int
    first_ms: float
    p50_us: float
    p99_us: float
    bare_us: float
    megabytes: float


def recipe(number: int) -> RecipeSource:
    roles = ("system", "user", "assistant", "user")
    name = f"bench-{number}"
    messages = [
        MessageSource(role, f"{name}/{at}", f"{text} {number}")  # type: ignore[arg-type]
        for at, (role, text) in enumerate(zip(roles, TEXTS, strict=True))
    ]
    return RecipeSource(name=name, model="m", sampling={}, variables=SCHEMA, messages=tuple(messages))


async def keep(pool: Pool, number: int = RECIPES) -> Kept:
    """Recipes `bench-0` to `bench-{number - 1}` in the database."""
    started = time.perf_counter()
    await import_recipes(pool, [recipe(at) for at in range(SAVED)], author="bench")
    saved = time.perf_counter()
    async with pool.connection() as connection:
        for first in range(SAVED, number, BATCH):
            last = min(number, first + BATCH) - 1
            async with connection.transaction():
                for statement in COPIES:
                    numbered = statement.replace("{a}", str(first)).replace("{b}", str(last))
                    await connection.execute(numbered.encode())
        copied = time.perf_counter()
        await connection.execute("analyze")
    return Kept(round((saved - started) / SAVED * 1000, 1), round(copied - saved, 1))


async def resolve(pool: Pool, number: int = RECIPES) -> Resolved:
    """Some for the first time, from among all of them; one of these many times."""
    registry, process = Registry(pool), psutil.Process()
    before, started = process.memory_info().rss, time.perf_counter()
    some = range(0, number, EVERY)
    for first in range(0, len(some), AT_ONCE):
        await asyncio.gather(*(registry.resolve(f"bench-{at}") for at in some[first : first + AT_ONCE]))
    taken = time.perf_counter() - started
    megabytes = (process.memory_info().rss - before) / 1e6
    bare = [jinja2.Template(text) for text in TEXTS]

    async def rendered() -> object:
        return (await registry.resolve(f"bench-{some[-1]}")).render(VARIABLES)

    async def plain() -> object:
        return [template.render(VARIABLES) for template in bare]

    p50, p99 = await timed(rendered)
    simple, _ = await timed(plain)
    figures = (taken / len(some) * 1000, p50, p99, simple, megabytes)
    return Resolved(len(some), *(round(figure, 2) for figure in figures))
