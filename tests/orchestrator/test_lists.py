"""Lists stop nowhere silently: each has `limit`, `after`, `has_more`; a page that begins nowhere is a mistake."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from core.db.pool import open_pool
from core.http.paging import MOST
from tests.fakes.studio import Studio


@pytest.fixture
async def filled(studio: Studio, migrated_dsn: str) -> Studio:
    """Five of everything, and more keys than one page holds."""
    for number in range(5):
        made = await studio.http.put(
            f"/v1/aliases/alias-{number}",
            json={"model": "small", **({"tenant": "default"} if number > 2 else {})},
            headers={"authorization": f"Bearer {studio.key}"},
        )
        assert made.status_code == 200, made.text
        hard = [{"category": "x", "terms": [f"zzexplicit{number}"]}]
        made = await studio.post("/v1/policies", {"document": {"hard": hard, "soft": [], "constraints": ""}})
        assert made.status_code == 200, made.text
    async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as connection:
        await connection.execute(
            "insert into api_keys (id, tenant, name, sha256, scopes)"
            " select 'key_' || n, 'default', 'many', sha256(n::text::bytea), '{chat}'"
            " from generate_series(1, %s) n",
            (MOST + 100,),
        )
    return studio


async def pages(studio: Studio, path: str, limit: int, of: str = "id") -> AsyncIterator[list[Any]]:
    after: Any = None
    while True:
        where = f"{path}?limit={limit}" + ("" if after is None else f"&after={after}")
        answer = await studio.get(where)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        yield [row[of] for row in found["data"]]
        if not found["has_more"]:
            return
        after = found["data"][-1][of]


@pytest.mark.parametrize(
    ("path", "of", "limit"),
    [("keys", "id", 500), ("aliases", "id", 2), ("policies", "version", 2), ("prompts", "name", 7)],
)
async def test_all_of_it_comes_once_page_by_page(path: str, of: str, limit: int, filled: Studio) -> None:
    found = [page async for page in pages(filled, f"/v1/{path}", limit, of)]
    every = [one for page in found for one in page]
    assert len(found) > 1
    assert {len(page) for page in found[:-1]} == {limit}
    assert len(every) == len(set(every))
    whole = (await filled.get(f"/v1/{path}?limit=1000")).json()
    assert (every[:1000], len(every) > 1000) == ([row[of] for row in whole["data"]], whole["has_more"])
    assert path != "keys" or len(every) > MOST


@pytest.mark.parametrize(
    "where",
    [
        *("keys?after=key_nobody", "aliases?after=alias-1", "aliases?after=/nobody", "runs?after=run_nobody"),
        *("policies?after=999", "prompts?after=nobody", "prompts/caption?after=999"),
    ],
)
async def test_a_page_that_begins_nowhere_is_a_mistake(where: str, filled: Studio) -> None:
    answer = await filled.get(f"/v1/{where}")
    assert answer.status_code == 400, answer.text
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("after", "unknown_after")


async def test_releases_of_a_prompt_come_page_by_page(studio: Studio) -> None:
    for number in range(3):
        body = {"name": "greet", "model": "small", "messages": [{"role": "user", "body": f"Hello {number}"}]}
        assert (await studio.post("/v1/prompts", body)).status_code == 200
    first = (await studio.get("/v1/prompts/greet?limit=2")).json()
    rest = (await studio.get("/v1/prompts/greet?limit=2&after=2")).json()
    assert ([row["version"] for row in first["releases"]], first["has_more"]) == ([3, 2], True)
    assert ([row["version"] for row in rest["releases"]], rest["has_more"]) == ([1], False)


@pytest.mark.parametrize("at", ["2031-01-01T00:00:00", "2031-01-01 00:00:00", "2031-01-01"])
async def test_a_time_without_a_zone_is_refused(at: str, studio: Studio) -> None:
    made = (await studio.post("/v1/keys", {"name": "k", "scopes": ["chat"]})).json()
    headers = {"authorization": f"Bearer {studio.key}"}
    for answer in (
        await studio.post("/v1/keys", {"name": "k", "scopes": ["chat"], "expires_at": at}),
        await studio.http.patch(f"/v1/keys/{made['id']}", json={"expires_at": at}, headers=headers),
    ):
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "expires_at")


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "1e400", 1e300, -(10**12)])
async def test_a_time_that_no_database_keeps_is_refused(at: object, studio: Studio) -> None:
    answer = await studio.post("/v1/keys", {"name": "k", "scopes": ["chat"], "expires_at": at})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "expires_at")
    assert (await studio.get("/v1/keys")).status_code == 200


async def test_a_time_with_a_zone_is_that_moment_whatever_the_databases_zone(studio: Studio, migrated_dsn: str) -> None:
    async with open_pool(migrated_dsn, size=1) as pool, pool.connection() as connection:
        row = await (await connection.execute("select current_database() as name")).fetchone()
        assert row is not None
        await connection.execute(f"alter database \"{row['name']}\" set timezone to 'Pacific/Kiritimati'".encode())
    body = {"name": "k", "scopes": ["chat"], "expires_at": "2031-01-01T02:00:00+02:00"}
    made = (await studio.post("/v1/keys", body)).json()
    assert datetime.fromisoformat(made["expires_at"]) == datetime(2031, 1, 1, tzinfo=UTC)


async def test_a_policy_put_in_force_honours_the_revision_where_none_stands(studio: Studio) -> None:
    document = {"hard": [], "soft": [], "constraints": "x"}
    made = await studio.post("/v1/policies", {"document": document, "tenant": "default"})
    body = {"version": made.json()["version"], "tenant": "default"}
    headers = {"authorization": f"Bearer {studio.key}"}
    for revision, status in ((7, 409), (0, 200), (0, 409), (1, 200)):
        put = await studio.http.put("/v1/policies/in-force", json={**body, "revision": revision}, headers=headers)
        assert put.status_code == status, (revision, put.text)
