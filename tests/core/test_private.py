"""On a database with Supabase's roles: the migrations apply as they are, and anon and authenticated reach nothing."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from core.db.migrate import bundled, migrate
from tests.conftest import fresh_database

ROLES = ("anon", "authenticated")
# As Supabase sets a project up: whatever is made in `public` is offered to its three roles.
AS_SUPABASE = """
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
grant usage on schema public to anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
"""


@pytest.fixture
async def supabase(postgres_server: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """A migrated database whose public roles were offered everything, and the owner's connection to it."""
    async with (
        fresh_database(postgres_server) as dsn,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
    ):
        await connection.execute(AS_SUPABASE)
        await migrate(dsn)
        yield connection
        await connection.execute("drop owned by anon, authenticated, service_role")
        await connection.execute("drop role anon, authenticated, service_role")


async def _names(connection: psycopg.AsyncConnection[tuple[object, ...]], query: str) -> list[str]:
    return [str(name) for (name,) in await (await connection.execute(query.encode())).fetchall()]


async def _tried(connection: psycopg.AsyncConnection[tuple[object, ...]], role: str, statement: sql.Composed) -> str:
    """ "denied", or what the role got."""
    await connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(statement)
        return "allowed"
    except psycopg.errors.InsufficientPrivilege:
        return "denied"
    finally:
        await connection.execute("reset role")


async def test_anon_and_authenticated_are_denied_every_table(
    supabase: psycopg.AsyncConnection[tuple[object, ...]],
) -> None:
    tables = await _names(supabase, "select tablename from pg_tables where schemaname = 'public' order by 1")
    assert len(tables) > 30
    forms = (
        "select count(*) from {}",
        "insert into {} default values",
        "delete from {}",
        "truncate {} cascade",
    )
    for table in tables:
        for role in ROLES:
            for form in forms:
                statement = sql.SQL(form).format(sql.Identifier(table))
                assert await _tried(supabase, role, statement) == "denied", f"{role}: {form.format(table)}"


async def test_every_table_has_row_level_security_and_no_policy(
    supabase: psycopg.AsyncConnection[tuple[object, ...]],
) -> None:
    """The second lock: a privilege that is given again by mistake still shows no row."""
    open_tables = (
        "select relname from pg_class where relnamespace = 'public'::regnamespace"
        " and relkind = 'r' and not relrowsecurity"
    )
    assert await _names(supabase, open_tables) == [], "its migration must call keep_private"
    assert await _names(supabase, "select policyname from pg_policies where schemaname = 'public'") == []
    for role in ROLES:
        await supabase.execute(sql.SQL("grant select on tenants to {}").format(sql.Identifier(role)))
        await supabase.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        assert await _names(supabase, "select id from tenants") == []
        await supabase.execute("reset role")
    assert await _names(supabase, "select id from tenants") == ["default"], "the owner sees it"


async def test_anon_and_authenticated_may_call_no_function(
    supabase: psycopg.AsyncConnection[tuple[object, ...]],
) -> None:
    for role in ROLES:
        callable_ones = await supabase.execute(
            "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'public'::regnamespace"
            " and has_function_privilege(%s, p.oid, 'execute')",
            (role,),
        )
        assert await callable_ones.fetchall() == [], "its migration must call keep_private"


async def test_the_files_apply_without_our_runner(postgres_dsn: str) -> None:
    """As Supabase's own command line does it: file after file, each in a transaction."""
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        for migration in bundled():
            async with connection.transaction():
                await connection.execute(migration.sql.encode())
        assert "tenants" in await _names(connection, "select tablename from pg_tables where schemaname = 'public'")
