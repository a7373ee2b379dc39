"""What prompts as data cost: `.venv/bin/python -m bench.prompts [--recipes N]`.

Recipes of four messages, loaded into Postgres and resolved from among all of them; one of them resolved and rendered
many times, beside bare Jinja; the messages' hash beside the rfc8785 library. A minute for 10,000 recipes. Results go
to bench/results/prompts.{json,md}. What policy, proof and records add to a relayed request: `python -m bench.relay`.
"""

import argparse
import asyncio
import hashlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import psutil  # type: ignore[import-untyped,unused-ignore]
import rfc8785

from bench.harness import machine, quantile, save, table
from core.db.embedded import embedded_postgres
from core.db.migrate import migrate
from core.db.pool import Pool, open_pool
from core.json.canonical import read_messages
from prompts.registry import Registry
from prompts.sources import MessageSource, RecipeSource
from prompts.store import import_recipes

BUDGET_US, CALLS = 100.0, 5_000
EVERY = 5  # of them one is resolved
SAVED = 20  # recipes that are kept as a user keeps them: checked and tried out
BATCH = 10  # recipes copied in one transaction: of a long one, each entry of the audit chain would visit all before it
AT_ONCE = 100
ROLES = ("system", "user", "assistant", "user")
TEXTS = (
    "You are {{ name | default('a friendly assistant') }}. Answer warmly, truthfully and in a few sentences.",
    "What was said before: {{ context }}",
    "I have read it. What is the message?",
    "{% if context %}With that in mind: {% endif %}{{ message }}",
)
TEXT = {"type": "string", "minLength": 1, "maxLength": 4000}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["message", "context"],
    "additionalProperties": False,
    "properties": {"message": TEXT, "context": TEXT, "name": {**TEXT, "maxLength": 80}},
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


def recipe(number: int) -> RecipeSource:
    messages = [
        MessageSource(role, f"bench-{number}/{at}", f"{text} {number}")  # type: ignore[arg-type]
        for at, (role, text) in enumerate(zip(ROLES, TEXTS, strict=True))
    ]
    return RecipeSource(name=f"bench-{number}", model="m", sampling={}, variables=SCHEMA, messages=tuple(messages))


async def load(pool: Pool, number: int) -> dict[str, float]:
    """Recipes `bench-0` to `bench-{number - 1}` in the database, with every constraint, trigger and audit entry."""
    began = time.perf_counter()
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
    return {"one_saved_ms": (saved - began) / SAVED * 1000, "loaded_a_second": (number - SAVED) / (copied - saved)}


async def resolve(pool: Pool, number: int) -> dict[str, float]:
    """Some for the first time, from among all of them; one of these many times, beside bare Jinja."""
    registry, process = Registry(pool), psutil.Process()
    before, began = process.memory_info().rss, time.perf_counter()
    some = range(0, number, EVERY)
    for first in range(0, len(some), AT_ONCE):
        await asyncio.gather(*(registry.resolve(f"bench-{at}") for at in some[first : first + AT_ONCE]))
    first_ms = (time.perf_counter() - began) / len(some) * 1000
    megabytes = (process.memory_info().rss - before) / 1e6
    plain = [jinja2.Template(text) for text in TEXTS]

    async def ours() -> object:
        return (await registry.resolve(f"bench-{some[-1]}")).render(VARIABLES)

    async def bare() -> object:
        return [template.render(VARIABLES) for template in plain]

    p50, simple = await p50_us(ours), await p50_us(bare)
    figures = {"resolved_and_rendered_us": p50, "four_bare_jinja_renders_us": simple, "ours_over_bare": p50 / simple}
    return {**figures, "first_resolved_ms": first_ms, "resolved": len(some), "compiled_megabytes": megabytes}


async def prove() -> dict[str, float]:
    """The hash of four messages: ours, and by the rfc8785 library."""
    turns = [{"role": role, "content": text} for role, text in zip(ROLES, TEXTS, strict=True)]
    raw = msgspec.json.encode(turns)

    async def ours() -> object:
        return read_messages(raw)[1]

    async def library() -> object:
        return hashlib.sha256(rfc8785.dumps(msgspec.json.decode(raw))).hexdigest()

    return {"messages_hash_us": await p50_us(ours), "by_the_library_us": await p50_us(library)}


async def p50_us(work: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - began) * 1e6)
    return quantile(taken, 0.5)


async def measured(number: int) -> dict[str, Any]:
    facts, figures = machine(), await prove()
    with tempfile.TemporaryDirectory(prefix="bench-prompts-") as folder:
        async with embedded_postgres(Path(folder) / "postgres") as dsn:
            await migrate(dsn)
            async with open_pool(dsn) as pool:
                figures |= {"recipes": number, **await load(pool, number), **await resolve(pool, number)}
    rounded = {name: round(value, 2) for name, value in figures.items()}
    holds = rounded["resolved_and_rendered_us"] <= BUDGET_US
    return {"machine": facts, "figures": rounded, "budget": {"budget_us": BUDGET_US, "holds": holds}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.prompts", description=__doc__)
    parser.add_argument("--recipes", type=int, default=10_000, help="a smaller number is not kept (%(default)s)")
    number = parser.parse_args().recipes
    found = asyncio.run(measured(number))
    rows = [*found["machine"].items(), *found["figures"].items(), *found["budget"].items()]
    page = "# Prompts\n\n`python -m bench.prompts`; times are medians.\n\n" + table(("", ""), rows)
    print(page)
    if number >= parser.get_default("recipes"):
        save("prompts", found, page)


if __name__ == "__main__":
    main()
