"""What prompts cost: resolve and render a cached release, load ten thousand recipes, prove a relayed request.

    python -m bench.prompts

Budget: resolve + render of a cached 4-message release at most 100 µs p50. The same text by a bare Jinja render stands
beside it.
"""

import asyncio
import hashlib
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import rfc8785

from core.canonical import read_messages
from core.db.embedded import embedded_postgres
from core.db.migrate import migrate
from core.db.pool import Pool, open_pool
from orchestrator import said
from orchestrator.policy import Rules, decide
from orchestrator.requests import peek
from prompts.registry import Registry
from prompts.sources import MessageSource, RecipeSource
from prompts.store import import_recipes

BUDGET_US = 100.0
RECIPES = 10_000
ROUNDS = 5_000
BATCH = 100  # recipes copied in one transaction
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


def recipe(number: int) -> RecipeSource:
    roles = ("system", "user", "assistant", "user")
    name = f"bench-{number}"
    messages = [
        MessageSource(role, f"{name}/{at}", f"{text} ({number})")  # type: ignore[arg-type]
        for at, (role, text) in enumerate(zip(roles, TEXTS, strict=True))
    ]
    return RecipeSource(name=name, model="m", sampling={}, variables=SCHEMA, messages=tuple(messages))


async def timed(work: Callable[[], Awaitable[object]], rounds: int = ROUNDS) -> tuple[float, float]:
    """(p50, p99) in microseconds."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - started) * 1e6)
    cuts = statistics.quantiles(taken, n=100)
    return cuts[49], cuts[98]


COPIES = (
    "insert into recipes (name) select 'bench-' || n from generate_series({a}, {b}) n",
    "insert into templates (name) select 'bench-' || n || '/' || m from generate_series({a}, {b}) n,"
    " generate_series(0, 3) m",
    "insert into template_versions (template, version, body, variables, sha256)"
    " select 'bench-' || n || '/' || m, 1, t.body, t.variables, t.sha256 from generate_series({a}, {b}) n,"
    " generate_series(0, 3) m join template_versions t on t.template = 'bench-0/' || m",
    "insert into releases (recipe, version, model, sampling, variables, sha256)"
    " select 'bench-' || n, 1, model, sampling, variables, sha256 from generate_series({a}, {b}) n, releases"
    " where recipe = 'bench-0'",
    "insert into release_messages (recipe, version, position, role, template, template_version)"
    " select 'bench-' || n, 1, position, role, 'bench-' || n || '/' || position, 1"
    " from generate_series({a}, {b}) n, release_messages where recipe = 'bench-0'",
    "insert into labels (recipe, name, version) select 'bench-' || n, 'production', 1 from generate_series({a}, {b}) n",
)


async def load(pool: Pool, number: int) -> None:
    """One recipe saved as it is saved, and copies of it made in the database."""
    started = time.perf_counter()
    await import_recipes(pool, [recipe(0)], author="bench")
    print(f"one recipe checked, tried out and kept in {(time.perf_counter() - started) * 1000:.0f} ms")
    async with pool.connection() as connection:
        for first in range(1, number, BATCH):  # one transaction of all would visit every dead head of the audit chain
            last = min(number, first + BATCH) - 1
            async with connection.transaction():
                for statement in COPIES:
                    numbered = statement.replace("{a}", str(first)).replace("{b}", str(last))
                    await connection.execute(numbered.encode())
        await connection.execute("analyze")
    print(f"{number} recipes loaded in {time.perf_counter() - started:.0f} s")


async def resolving(pool: Pool) -> None:
    registry = Registry(pool)
    await load(pool, RECIPES)
    started = time.perf_counter()
    for number in range(RECIPES):
        await registry.resolve(f"bench-{number}")
    taken = time.perf_counter() - started
    print(f"{RECIPES} recipes: each resolved and compiled for the first time in {taken / RECIPES * 1000:.2f} ms")
    bare = [jinja2.Template(text) for text in TEXTS]

    async def rendered() -> object:
        return (await registry.resolve("bench-77")).render(VARIABLES)

    async def plain() -> object:
        return [template.render(VARIABLES) for template in bare]

    p50, p99 = await timed(rendered)
    simple, _ = await timed(plain)
    print(f"resolve + render, cached, 4 messages: p50 {p50:.1f} µs, p99 {p99:.1f} µs (budget {BUDGET_US:g})")
    print(f"  four bare Jinja renders: p50 {simple:.1f} µs; ours is {p50 / simple:.2f} times that")


async def proving() -> None:
    """What judging and proving add to a relayed request: a body of four messages, never seen before and seen before."""
    rules = Rules()
    words = ("sunday", "train", "harbour", "window", "letter", "garden", "river", "answer")
    counter = iter(range(10**9))

    def body(fresh: bool) -> bytes:
        number = next(counter) if fresh else 1
        text = " ".join(words[(number >> shift) % 8] for shift in range(24)) + f" {number}"
        turns = [{"role": "user" if at % 2 else "system", "content": f"{text} {at}"} for at in range(4)]
        return msgspec.json.encode({"model": "small", "messages": turns})

    async def judged(fresh: bool) -> object:
        says = said.read(peek(body(fresh)))
        return decide(says.texts, tier=1, surface="text", rules=rules), says.messages_sha256

    async def peeked(fresh: bool) -> object:
        return peek(body(fresh))

    for name, fresh in (("texts seen before", False), ("texts never seen", True)):
        with_proof, _ = await timed(lambda fresh=fresh: judged(fresh))  # type: ignore[misc]
        without, _ = await timed(lambda fresh=fresh: peeked(fresh))  # type: ignore[misc]
        print(f"policy + hash on a relayed request, {name}: {with_proof - without:.1f} µs p50")
    messages = msgspec.json.decode(body(False))["messages"]
    raw = msgspec.json.encode(messages)

    async def ours() -> object:
        return read_messages(raw)[1]

    async def library() -> object:
        return hashlib.sha256(rfc8785.dumps(msgspec.json.decode(raw))).hexdigest()

    fast, _ = await timed(ours)
    slow, _ = await timed(library)
    print(f"  messages hash alone: {fast:.1f} µs p50; by the rfc8785 library: {slow:.1f} µs ({slow / fast:.0f} times)")


async def main() -> None:
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}")
    await proving()
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_postgres(Path(folder) / "postgres") as dsn:
            await migrate(dsn)
            async with open_pool(dsn) as pool:
                await resolving(pool)


if __name__ == "__main__":
    asyncio.run(main())
