"""Reading prompts as they were written: for lists, diffs, `pull`, and to prove that a release is what its hash says."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from core.db.pool import Pool
from core.errors import NotFound
from prompts.render import Message
from prompts.sources import HASHED, SETTINGS, Golden, MessageSource, RecipeSource

_RELEASE = "select * from releases where recipe = %s and version = %s and (tenant is null or tenant = %s)"
_MESSAGES = """
select m.role, m.template, t.body from release_messages m
  left join template_versions t on t.template = m.template and t.version = m.template_version
 where m.recipe = %s and m.version = %s order by m.position
"""
_INCLUDES = """
select distinct i.included, it.body from release_messages m
  join template_includes i on i.template = m.template and i.version = m.template_version
  join template_versions it on it.template = i.included and it.version = i.included_version
 where m.recipe = %s and m.version = %s
"""
_GOLDENS = (
    "select variables, history, messages from golden_renders where recipe = %s and version = %s order by position"
)
_LIST = """
select r.name, count(v.*) as releases, max(v.version) as newest,
       (select coalesce(jsonb_object_agg(l.name, l.version), '{}') from labels l
         where l.recipe = r.name and l.tenant is not distinct from %(tenant)s) as labels
  from recipes r join releases v on v.recipe = r.name and (v.tenant is null or v.tenant = %(tenant)s)
 where r.name > %(after)s group by r.name order by r.name limit %(limit)s
"""


async def recipes(pool: Pool, *, tenant: str | None = None, after: str = "", limit: int = 100) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        return await (await connection.execute(_LIST, {"tenant": tenant, "after": after, "limit": limit})).fetchall()


async def knows(pool: Pool, recipe: str, version: int | None = None, *, tenant: str | None = None) -> bool:
    """Whether there is such a release, or one of any version, for this tenant."""
    query = (
        "select from releases where recipe = %(recipe)s and version = coalesce(%(version)s, version)"
        " and (tenant is null or tenant = %(tenant)s) limit 1"
    )
    given = {"recipe": recipe, "version": version, "tenant": tenant}
    async with pool.connection() as connection:
        return (await connection.execute(query, given)).rowcount > 0


async def releases(
    pool: Pool, recipe: str, *, tenant: str | None = None, after: int | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """The releases of a recipe, the newest first; `after` is the last version of the page before. Raises NotFound."""
    query = (
        "select version, model, tier, control_tokens, author, note, sha256, tenant, created_at from releases"
        " where recipe = %s and (tenant is null or tenant = %s) and version < coalesce(%s, 2147483647)"
        " order by version desc limit %s"
    )
    async with pool.connection() as connection:
        rows = await (await connection.execute(query, (recipe, tenant, after, limit))).fetchall()
    if not rows and after is None:
        raise _missing(recipe)
    return rows


async def labels(pool: Pool, recipe: str, *, tenant: str | None = None) -> list[dict[str, Any]]:
    query = (
        "select * from labels where recipe = %s and (tenant is null or tenant = %s) order by name, tenant nulls last"
    )
    async with pool.connection() as connection:
        return await (await connection.execute(query, (recipe, tenant))).fetchall()


async def source(pool: Pool, recipe: str, version: int, *, tenant: str | None = None) -> RecipeSource:
    """A release as it was written. Raises NotFound."""
    at = (recipe, version)
    async with pool.connection() as connection:
        row = await (await connection.execute(_RELEASE, (*at, tenant))).fetchone()
        if row is None:
            raise _missing(f"{recipe}@{version}")
        messages = await (await connection.execute(_MESSAGES, at)).fetchall()
        included = await (await connection.execute(_INCLUDES, at)).fetchall()
        goldens = await (await connection.execute(_GOLDENS, at)).fetchall()
    return RecipeSource(
        name=recipe,
        **{name: row[name] for name in SETTINGS},
        messages=tuple(MessageSource(**message) for message in messages),
        includes={entry["included"]: entry["body"] for entry in included},
        goldens=tuple(Golden(g["variables"], tuple(g["history"]), tuple(g["messages"])) for g in goldens),
    )


async def newest_templates(pool: Pool, names: Iterable[str], *, tenant: str | None = None) -> dict[str, str]:
    """The newest stored text of each of these templates that is there."""
    query = (
        "select distinct on (template) template, body from template_versions where template = any(%s)"
        " and (tenant is null or tenant = %s) order by template, version desc"
    )
    async with pool.connection() as connection:
        rows = await (await connection.execute(query, (sorted(names), tenant))).fetchall()
    return {row["template"]: row["body"] for row in rows}


def facts(recipe: RecipeSource) -> dict[str, Any]:
    """A recipe as JSON, in the shape in which it is sent."""
    return asdict(recipe)


def written(recipe: RecipeSource) -> str:
    """A recipe as one text, for reading and for diffs."""
    head = {name: getattr(recipe, name) for name in HASHED}
    parts = [json.dumps(head, indent=2, sort_keys=True, ensure_ascii=False)]
    parts += [f"--- {m.role} {m.template or ''}\n{m.body or ''}" for m in recipe.messages]
    parts += [f"--- include {name}\n{body}" for name, body in sorted(recipe.includes.items())]
    return "\n".join(parts) + "\n"


def difference(one: str, other: str, names: tuple[str, str]) -> str:
    """A unified diff; empty where nothing differs."""
    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), *names, lineterm="")
    return "\n".join(lines)


def spoken(messages: Sequence[Message]) -> str:
    """Messages as one text, for diffs."""
    return "\n".join(f"--- {m['role']}\n{_content(m.get('content'))}" for m in messages)


def _content(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)


def _missing(what: str) -> NotFound:
    return NotFound(f"There is no release `{what[:150]}`.", param="prompt.id", code="prompt_not_found")
