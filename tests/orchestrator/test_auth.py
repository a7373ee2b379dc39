"""Keys: who is let in, for what, for how long; and what is remembered of them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest

from core.db.pool import Pool, open_pool
from core.errors import Forbidden, Unauthenticated, Unavailable
from orchestrator.access.keys import Key, Keys, Scope, create_key
from tests.fakes.cable import cable
from tests.fakes.studio import WORKER_KEY, Studio
from tests.fakes.wait import answers

Headers = list[tuple[bytes, bytes]]


@pytest.fixture
async def pool(migrated_dsn: str) -> AsyncIterator[Pool]:
    async with open_pool(migrated_dsn, size=2) as opened:
        yield opened


def bearer(secret: str) -> Headers:
    return [(b"accept", b"*/*"), (b"authorization", b"Bearer " + secret.encode())]


async def test_a_key_is_its_owner(pool: Pool) -> None:
    secret = await create_key(pool, "mine", ["chat", "images"])
    assert secret.startswith("sk-soundstage-")
    key = await Keys(pool).authenticate(bearer(secret))
    assert (key.tenant, set(key.scopes), key.max_tier, key.expires_at) == ("default", {"chat", "images"}, 1, None)


async def test_only_a_hash_is_stored(pool: Pool) -> None:
    secret = await create_key(pool, "mine", ["chat"])
    async with pool.connection() as connection:
        row = await (await connection.execute("select api_keys::text as text from api_keys")).fetchone()
    assert row is not None
    assert secret not in row["text"]
    assert secret.encode().hex() not in row["text"]


async def test_making_a_key_again_changes_nothing(pool: Pool) -> None:
    await create_key(pool, "first", ["chat"], secret="s")
    await create_key(pool, "second", ["admin"], secret="s")
    assert (await Keys(pool).authenticate(bearer("s"))).scopes == {"chat"}


NO_BEARER: dict[str, tuple[Headers, str]] = {
    "no header": ([], "missing_api_key"),
    "another scheme": ([(b"authorization", b"Basic s")], "missing_api_key"),
    "no scheme": ([(b"authorization", b"s")], "missing_api_key"),
    "another header": ([(b"x-api-key", b"s")], "missing_api_key"),
    "only the first header counts": ([(b"authorization", b"x"), (b"authorization", b"Bearer s")], "missing_api_key"),
    "empty": ([(b"authorization", b"Bearer ")], "invalid_api_key"),
    "unknown": (bearer("other"), "invalid_api_key"),
    "a prefix": (bearer("s" * 7), "invalid_api_key"),
    "not text": ([(b"authorization", b"Bearer \xff\x00")], "invalid_api_key"),
}


@pytest.mark.parametrize(("headers", "code"), NO_BEARER.values(), ids=NO_BEARER.keys())
async def test_who_has_no_key_stays_out(pool: Pool, headers: Headers, code: str) -> None:
    await create_key(pool, "mine", ["chat"], secret="s" * 8)
    with pytest.raises(Unauthenticated) as caught:
        await Keys(pool).authenticate(headers)
    assert (caught.value.status, caught.value.code) == (401, code)


@pytest.mark.parametrize("text", [b"Bearer s", b"bearer s", b"BEARER  s "])
async def test_the_scheme_is_read_as_http_says(pool: Pool, text: bytes) -> None:
    await create_key(pool, "mine", ["chat"], secret="s")
    assert await Keys(pool).authenticate([(b"authorization", text)])


SCOPES: dict[str, tuple[set[str], Scope, bool]] = {
    "its own": ({"chat"}, "chat", True),
    "another": ({"chat"}, "images", False),
    "none": (set(), "chat", False),
    "admin includes chat": ({"admin"}, "chat", True),
    "admin includes pipelines": ({"admin"}, "pipelines", True),
    "admin is not a worker": ({"admin"}, "worker", False),
    "a worker is not admin": ({"worker"}, "admin", False),
    "a worker": ({"worker"}, "worker", True),
}


@pytest.mark.parametrize(("has", "wanted", "may"), SCOPES.values(), ids=SCOPES.keys())
def test_scopes(has: set[str], wanted: Scope, may: bool) -> None:
    key = Key("k", "default", frozenset(has), 1, None)
    if may:
        key.require(wanted)
        return
    with pytest.raises(Forbidden, match=wanted) as caught:
        key.require(wanted)
    assert caught.value.code == "missing_scope"


async def test_a_key_expires_while_it_is_remembered(pool: Pool) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    await create_key(pool, "old", ["chat"], secret="old", expires_at=past)
    await create_key(pool, "new", ["chat"], secret="new", expires_at=past + timedelta(hours=1))
    keys = Keys(pool)
    for _ in range(2):
        with pytest.raises(Unauthenticated) as caught:
            await keys.authenticate(bearer("old"))
        assert caught.value.code == "expired_api_key"
        assert await keys.authenticate(bearer("new"))


async def queries(pool: Pool) -> int:
    return int(pool.get_stats().get("requests_num", 0))


async def test_what_was_asked_is_remembered_until_the_epoch_moves(pool: Pool) -> None:
    await create_key(pool, "mine", ["chat"], secret="s")
    keys = Keys(pool)
    asked = await queries(pool)
    for _ in range(5):
        await keys.authenticate(bearer("s"))
        with pytest.raises(Unauthenticated):
            await keys.authenticate(bearer("wrong"))
    assert await queries(pool) - asked == 2
    keys.drop()
    await keys.authenticate(bearer("s"))
    assert await queries(pool) - asked == 3


async def test_guessing_fills_no_memory_and_costs_no_known_key_its_place(pool: Pool) -> None:
    await create_key(pool, "mine", ["chat"], secret="s")
    keys = Keys(pool, max_cached=4)
    await keys.authenticate(bearer("s"))
    for number in range(20):
        with pytest.raises(Unauthenticated):
            await keys.authenticate(bearer(f"guess {number}"))
        assert len(keys._missed) <= 4
    asked = await queries(pool)
    await keys.authenticate(bearer("s"))
    assert await queries(pool) == asked


async def test_many_keys_fill_no_memory_either(pool: Pool) -> None:
    keys = Keys(pool, max_cached=4)
    for number in range(10):
        await create_key(pool, "many", ["chat"], secret=f"key {number}")
        await keys.authenticate(bearer(f"key {number}"))
        assert len(keys._found) <= 4


async def test_without_the_database_a_known_key_enters_and_an_unknown_one_is_told_to_come_again(
    migrated_dsn: str, tmp_path: Path
) -> None:
    async with cable(migrated_dsn, tmp_path) as line, open_pool(line.dsn, size=1, wait_seconds=1) as pool:
        await create_key(pool, "mine", ["chat"], secret="s")
        keys = Keys(pool)
        await keys.authenticate(bearer("s"))
        line.cut()
        assert await keys.authenticate(bearer("s"))
        with pytest.raises(Unavailable) as caught:
            await keys.authenticate(bearer("other"))
        assert (caught.value.code, caught.value.retry_after) == ("database_unavailable", 2)


# -- the same over HTTP -----------------------------------------------------------------------------------------------


async def test_each_refusal_is_the_sdks_own_exception(studio: Studio, pool: Pool) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    await create_key(pool, "old", ["chat"], secret="old", expires_at=past)
    await create_key(pool, "pictures", ["images"], secret="pictures")
    refusals: dict[str, tuple[type[openai.APIStatusError], str]] = {
        "unknown": (openai.AuthenticationError, "invalid_api_key"),
        "old": (openai.AuthenticationError, "expired_api_key"),
        "pictures": (openai.PermissionDeniedError, "missing_scope"),
        WORKER_KEY: (openai.PermissionDeniedError, "missing_scope"),
    }
    for key, (kind, code) in refusals.items():
        with pytest.raises(kind) as caught:
            await studio.sdk(key).chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
        body: Any = caught.value.body
        assert (body["code"], set(body)) == (code, {"message", "type", "param", "code"})
        assert caught.value.request_id


async def test_a_revoked_key_stays_out(studio: Studio, migrated_dsn: str) -> None:
    """Every orchestrator hears of it: within the epoch's poll, and at once where the notification comes through."""
    assert (await studio.get("/v1/models")).status_code == 200
    async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as connection:
        await connection.execute("update api_keys set revoked_at = now() where name = 'local'")

    async def refused() -> bool:
        return (await studio.get("/v1/models")).status_code == 401

    await answers(refused)


async def test_a_new_key_enters_though_it_was_tried_before(studio: Studio, pool: Pool) -> None:
    async def enters() -> bool:
        return (await studio.get("/v1/models", key="early")).status_code == 200

    assert not await enters()
    await create_key(pool, "early", ["chat"], secret="early")
    await answers(enters)
