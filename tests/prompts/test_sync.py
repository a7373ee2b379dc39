"""pull, push and diff between a folder and the database; conflicts are reported and nothing of them is written."""

import asyncio
import json
from pathlib import Path

import pytest

from core.db.changes import Writer
from core.db.pool import Pool
from prompts import labels, read, sync
from prompts.__main__ import main
from prompts.labels import Target
from prompts.sources import SEED, Golden, read_folder
from prompts.store import import_recipes, save_release
from tests.prompts.recipes import recipe

SAID = ({"role": "system", "content": "You are brief."}, {"role": "user", "content": "Be kind. Hi"})


async def labelled(pool: Pool, writer: Writer, user: str) -> int:
    saved = await save_release(pool, recipe(user), writer)
    await labels.move(pool, "greet", "production", Target(saved.version), writer)
    return saved.version


def states(entries: list[sync.Entry]) -> dict[str, str]:
    return {entry.name: entry.state for entry in entries}


async def test_what_ships_goes_out_and_in_unchanged(pool: Pool, writer: Writer, tmp_path: Path) -> None:
    await import_recipes(pool, read_folder(SEED), author="soundstage")
    pulled = await sync.pull(pool, tmp_path)
    assert set(states(pulled).values()) == {"only there"}
    assert {s.name: s.sha256 for s in read_folder(tmp_path)} == {s.name: s.sha256 for s in read_folder(SEED)}
    assert set(states(await sync.push(pool, tmp_path, writer)).values()) == {"same"}


async def test_includes_goldens_and_odd_template_names_survive(pool: Pool, writer: Writer, tmp_path: Path) -> None:
    golden = Golden({"message": "Hi"}, (), SAID)
    source = recipe(
        "{% include 'shared/tone' %} {{ message }}", includes={"shared/tone": "Be kind.\n"}, goldens=(golden,)
    )
    await save_release(pool, source, writer)
    sync.write_recipe(tmp_path, await read.source(pool, "greet", 1))
    assert [s.sha256 for s in read_folder(tmp_path)] == [source.sha256]


async def test_a_change_here_is_pushed_once(pool: Pool, writer: Writer, tmp_path: Path) -> None:
    await labelled(pool, writer, "one {{ message }}")
    await sync.pull(pool, tmp_path)
    (tmp_path / "greet" / "user.j2").write_text("two {{ message }}")
    assert states(await sync.compare(pool, tmp_path)) == {"greet": "changed here"}
    await sync.push(pool, tmp_path, writer)
    assert states(await sync.push(pool, tmp_path, writer)) == {"greet": "same"}
    assert [row["version"] for row in await read.releases(pool, "greet")] == [2, 1]


async def test_a_change_there_is_pulled_and_not_pushed_over(pool: Pool, writer: Writer, tmp_path: Path) -> None:
    await labelled(pool, writer, "one {{ message }}")
    await sync.pull(pool, tmp_path)
    await labelled(pool, writer, "two {{ message }}")
    assert states(await sync.push(pool, tmp_path, writer)) == {"greet": "changed there"}
    await sync.pull(pool, tmp_path)
    assert (tmp_path / "greet" / "user.j2").read_text() == "two {{ message }}"


async def test_a_conflict_is_left_alone_on_both_sides(pool: Pool, writer: Writer, tmp_path: Path) -> None:
    await labelled(pool, writer, "one {{ message }}")
    await sync.pull(pool, tmp_path)
    await labelled(pool, writer, "there {{ message }}")
    (tmp_path / "greet" / "user.j2").write_text("here {{ message }}")
    for done in (await sync.pull(pool, tmp_path), await sync.push(pool, tmp_path, writer)):
        assert states(done) == {"greet": "conflict"}
        assert "-there {{ message }}" in done[0].diff
        assert "+here {{ message }}" in done[0].diff
    assert (tmp_path / "greet" / "user.j2").read_text() == "here {{ message }}"
    assert len(await read.releases(pool, "greet")) == 2


@pytest.mark.parametrize(("settle", "wanted"), [("pull", "there"), ("push", "here")])
async def test_a_conflict_is_settled_by_name(
    pool: Pool, writer: Writer, migrated_dsn: str, tmp_path: Path, settle: str, wanted: str
) -> None:
    await labelled(pool, writer, "one {{ message }}")
    await sync.pull(pool, tmp_path)
    await labelled(pool, writer, "there {{ message }}")
    file = tmp_path / "greet" / "user.j2"
    file.write_text("here {{ message }}")
    command = [settle, str(tmp_path), "--database", migrated_dsn]
    assert await asyncio.to_thread(main, [*command, "--over", "other"]) == 1
    assert await asyncio.to_thread(main, [*command, "--over", "greet"]) == 0
    assert states(await sync.compare(pool, tmp_path)) == {"greet": "same"}
    assert file.read_text() == f"{wanted} {{{{ message }}}}"


async def test_the_command_line(
    pool: Pool, writer: Writer, migrated_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await labelled(pool, writer, "one {{ message }}")
    base = ["--database", migrated_dsn]
    assert await asyncio.to_thread(main, ["pull", str(tmp_path), *base]) == 0
    assert await asyncio.to_thread(main, ["diff", str(tmp_path), *base]) == 0
    assert await asyncio.to_thread(main, ["check", str(tmp_path)]) == 0
    (tmp_path / "greet" / "user.j2").write_text("two {{ message }}")
    assert await asyncio.to_thread(main, ["diff", str(tmp_path), *base]) == 1
    assert await asyncio.to_thread(main, ["push", str(tmp_path), "--author", "ci", *base]) == 0
    assert await asyncio.to_thread(main, ["audit", "verify", *base]) == 0
    head = capsys.readouterr().out.split()[-1]
    assert await asyncio.to_thread(main, ["audit", "verify", "--head", head, *base]) == 0
    async with pool.connection() as connection:
        await connection.execute("alter table audit disable trigger user")
        await connection.execute("update audit set actor = 'nobody' where id = 3")
    assert await asyncio.to_thread(main, ["audit", "verify", *base]) == 1
    assert "broken at entry 3" in capsys.readouterr().out


async def test_a_template_that_may_not_be_saved_ends_a_check(tmp_path: Path) -> None:
    sync.write_recipe(tmp_path, recipe())
    (tmp_path / "greet" / "user.j2").write_text("a\n{{ nobody }}")
    with pytest.raises(SystemExit, match="greet/user: line 2, column 4: reads `nobody`"):
        await asyncio.to_thread(main, ["check", str(tmp_path)])


async def test_the_state_file_is_readable(pool: Pool, writer: Writer, tmp_path: Path) -> None:
    await labelled(pool, writer, "one {{ message }}")
    await sync.pull(pool, tmp_path)
    assert set(json.loads((tmp_path / sync.STATE).read_text())) == {"greet"}
