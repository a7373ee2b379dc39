"""Migrations, the pool and the embedded server, on a real Postgres."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import psutil
import psycopg
import pytest
from psycopg_pool import PoolTimeout

from core.db.embedded import DatabaseError, _start_again, embedded_postgres
from core.db.migrate import Migration, MigrationError, bundled, migrate
from core.db.pool import Pool, open_pool
from tests.fakes.wait import answers, eventually, soon

ONE = Migration("0001", "0001_one", "create table one (n int); insert into one values (1); insert into one values (2);")
TWO = Migration("0002", "0002_two", "-- 100 %s of %(it)s\ncreate view two as select n from one where 'a%' like '%a';")
BROKEN = Migration("0003", "0003_broken", "create table three (n int); select no_such_function();")


async def query(dsn: str, statement: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return await (await connection.execute(statement.encode())).fetchall()


async def tables(dsn: str) -> set[str]:
    rows = await query(dsn, "select table_name from information_schema.tables where table_schema = 'public'")
    return {str(name) for (name,) in rows}


async def test_migrations_are_applied_in_order_and_once(postgres_dsn: str) -> None:
    assert await migrate(postgres_dsn, [ONE, TWO]) == ["0001_one", "0002_two"]
    assert await migrate(postgres_dsn, [ONE, TWO]) == []
    assert await tables(postgres_dsn) == {"one", "two", "schema_migrations"}
    recorded = await query(postgres_dsn, "select version, name, sha256 from schema_migrations order by version")
    assert recorded == [(m.version, m.name, m.sha256) for m in (ONE, TWO)]


async def test_a_later_migration_is_added(postgres_dsn: str) -> None:
    await migrate(postgres_dsn, [ONE])
    assert await migrate(postgres_dsn, [ONE, TWO]) == ["0002_two"]


async def test_several_that_start_at_once_apply_it_once(postgres_dsn: str) -> None:
    applied = await soon(asyncio.gather(*(migrate(postgres_dsn, [ONE, TWO]) for _ in range(6))))
    assert sorted(map(len, applied)) == [0, 0, 0, 0, 0, 2]
    assert await query(postgres_dsn, "select count(*) from one") == [(2,)]


async def test_a_changed_migration_is_refused_and_nothing_else_applied(postgres_dsn: str) -> None:
    await migrate(postgres_dsn, [ONE])
    changed = ONE._replace(sql=ONE.sql + " ")
    with pytest.raises(MigrationError, match="0001_one was changed"):
        await migrate(postgres_dsn, [changed, TWO])
    assert "two" not in await tables(postgres_dsn)


async def test_a_failing_migration_undoes_all_of_its_run(postgres_dsn: str) -> None:
    with pytest.raises(psycopg.errors.UndefinedFunction):
        await migrate(postgres_dsn, [ONE, TWO, BROKEN])
    assert await tables(postgres_dsn) == set()
    assert await migrate(postgres_dsn, [ONE, TWO]) == ["0001_one", "0002_two"]


async def test_a_failing_migration_keeps_what_was_there(postgres_dsn: str) -> None:
    await migrate(postgres_dsn, [ONE])
    with pytest.raises(psycopg.errors.UndefinedFunction):
        await migrate(postgres_dsn, [ONE, TWO, BROKEN])
    assert await tables(postgres_dsn) == {"one", "schema_migrations"}


async def test_a_number_given_twice_is_refused(postgres_dsn: str) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        await migrate(postgres_dsn, [ONE, TWO._replace(version="0001")])
    assert await tables(postgres_dsn) == set()


async def test_the_migrations_that_ship_apply_to_an_empty_database(migrated_dsn: str) -> None:
    shipped = bundled()
    assert [migration.version for migration in shipped] == [f"{n:04}" for n in range(1, len(shipped) + 1)]
    assert await migrate(migrated_dsn) == []


async def test_the_pool_gives_rows_as_dicts_and_commits_by_itself(postgres_dsn: str) -> None:
    async with open_pool(postgres_dsn, size=2) as pool:
        async with pool.connection() as connection:
            await connection.execute("create table kept (n int)")
            await connection.execute("insert into kept values (7)")
            with pytest.raises(psycopg.errors.UndefinedTable):
                await connection.execute("select * from missing")
            row = await (await connection.execute("select n from kept")).fetchone()
        assert row == {"n": 7}


async def test_a_connection_that_died_is_replaced(postgres_dsn: str) -> None:
    async with open_pool(postgres_dsn, size=1) as pool:
        async with pool.connection() as connection:
            pid = connection.info.backend_pid
        await query(postgres_dsn, f"select pg_terminate_backend({pid}, 5000)")
        async with pool.connection() as connection:
            assert connection.info.backend_pid != pid


async def test_waiting_for_a_connection_is_bounded(postgres_dsn: str) -> None:
    async with open_pool(postgres_dsn, size=1, wait_seconds=0.05) as pool, pool.connection():
        with pytest.raises(PoolTimeout):
            async with pool.connection():
                pass


def postmaster(directory: Path) -> int:
    return int((directory / "postmaster.pid").read_text().split()[0])


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
async def test_the_embedded_server_ends_with_its_block_and_keeps_its_data(postgres_directory: Path) -> None:
    directory = postgres_directory / "deep" / "data"
    async with embedded_postgres(directory) as dsn:
        await migrate(dsn, [ONE])
        pid = postmaster(directory)
    await eventually(lambda: not alive(pid), "the server's end")
    async with embedded_postgres(directory) as dsn:
        assert await query(dsn, "select count(*) from one") == [(2,)]


@pytest.mark.slow
async def test_the_embedded_server_ends_when_its_parent_is_killed(postgres_directory: Path) -> None:
    keeper = ("-m", "tests.fakes.keeper", "postgres", str(postgres_directory))
    parent = await asyncio.create_subprocess_exec(sys.executable, *keeper, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    dsn = (await soon(parent.stdout.readline())).decode().strip()
    assert await query(dsn, "select 1") == [(1,)]
    pid = postmaster(postgres_directory)
    parent.kill()
    await soon(parent.wait())
    await eventually(lambda: not alive(pid), "the server's end")


async def test_the_embedded_server_listens_on_no_port(postgres_server: str) -> None:
    assert await query(postgres_server, "show listen_addresses") == [("",)]


async def test_a_server_that_cannot_start_says_why(postgres_directory: Path) -> None:
    postgres_directory.write_text("a file where a directory should be")
    with pytest.raises(DatabaseError, match="did not start"):
        async with embedded_postgres(postgres_directory):
            pass


async def serves(dsn: str) -> bool:
    try:
        return await query(dsn, "select count(*) from one") == [(2,)]
    except psycopg.OperationalError:
        return False


@pytest.mark.slow
async def test_an_embedded_server_that_is_killed_comes_back_under_the_same_address_and_the_log_says_so(
    postgres_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with embedded_postgres(postgres_directory) as dsn:
        await migrate(dsn, [ONE])
        async with open_pool(dsn, size=2) as pool:
            async with pool.connection() as connection:
                await connection.execute("select 1")
            for _ in range(2):
                killed = postmaster(postgres_directory)
                psutil.Process(killed).kill()
                await eventually(lambda pid=killed: not alive(pid), "the server's end")  # type: ignore[misc]
                await answers(lambda: serves(dsn), "a server")
                assert postmaster(postgres_directory) != killed
            await answers(lambda: borrowed(pool), "a connection of the pool")
        await eventually(lambda: "Postgres has ended; starting it again" in caplog.text, "a line of the log")
        pid = postmaster(postgres_directory)
    await eventually(lambda: not alive(pid), "the server's end")


@pytest.mark.slow
async def test_a_keeper_that_is_killed_is_started_again_and_ends_the_server_at_the_end(
    postgres_directory: Path,
) -> None:
    async with embedded_postgres(postgres_directory) as dsn:
        await migrate(dsn, [ONE])
        killed = keeper(postgres_directory)
        killed.kill()
        await eventually(lambda: keeper_lives(postgres_directory, killed.pid), "another keeper")
        pid = postmaster(postgres_directory)
        psutil.Process(pid).kill()
        await eventually(lambda: not alive(pid), "the server's end")
        await answers(lambda: serves(dsn), "a server")
        last = postmaster(postgres_directory)
    await eventually(lambda: not alive(last), "the server's end")


def test_locks_of_a_server_that_nobody_reaps_are_let_go_and_a_living_ones_stay(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # a zombie, until the block's end
        names = {"postmaster.pid": dead.pid, ".s.PGSQL.5432.lock": dead.pid, ".s.PGSQL.6000.lock": os.getpid()}
        for name, pid in names.items():
            (tmp_path / name).write_text(f"{pid}\n{tmp_path}\n")
        (tmp_path / ".s.PGSQL.7000.lock").write_text("")
        server = Mock(pgdata=tmp_path)
        server.get_postmaster_info.return_value.socket_dir = tmp_path
        _start_again(server)
    assert sorted(each.name for each in tmp_path.iterdir()) == [".s.PGSQL.6000.lock", ".s.PGSQL.7000.lock"]
    server.ensure_postgres_running.assert_called_once()


async def borrowed(pool: Pool) -> bool:
    try:
        async with pool.connection() as connection:
            await connection.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True


def keeper(directory: Path) -> psutil.Process:
    found = [p for p in psutil.Process().children() if str(directory) in p.cmdline()]
    return found[-1]


def keeper_lives(directory: Path, before: int) -> bool:
    found = [p.pid for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return any(pid != before and str(directory) in psutil.Process(pid).cmdline() for pid in found)
