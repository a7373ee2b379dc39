"""Releases, labels, canaries and tenants, as a caller of the registry sees them."""

import asyncio

import pytest

from core.db.changes import Writer
from core.db.pool import Pool
from core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from prompts import audit, labels
from prompts.labels import Target
from prompts.registry import Registry
from prompts.sources import SEED, Golden, read_folder
from prompts.store import import_recipes, save_release
from tests.prompts.recipes import recipe


async def three(pool: Pool, writer: Writer) -> None:
    for number in (1, 2, 3):
        await save_release(pool, recipe(f"{number}: {{{{ message }}}}"), writer)


async def test_the_same_content_is_the_same_release(pool: Pool, writer: Writer) -> None:
    first = await save_release(pool, recipe(), writer)
    again = await save_release(pool, recipe(), writer)
    assert (first.version, first.created, again.version, again.created) == (1, True, 1, False)


async def test_what_ships_is_imported_once_even_by_several_at_once(pool: Pool) -> None:
    found = await asyncio.gather(*(import_recipes(pool, read_folder(SEED), author="soundstage") for _ in range(3)))
    assert sum(map(bool, found)) >= 1
    assert len({name for made in found for name in made}) == sum(map(len, found)) == len(list(read_folder(SEED)))


async def test_what_ships_does_not_move_a_label_that_somebody_moved(pool: Pool, writer: Writer) -> None:
    await import_recipes(pool, [recipe("one {{ message }}")], author="soundstage")
    await import_recipes(pool, [recipe("two {{ message }}")], author="soundstage")
    registry = Registry(pool)
    assert (await registry.resolve("greet")).version == 2
    await labels.move(pool, "greet", "production", Target(1), writer)
    await import_recipes(pool, [recipe("three {{ message }}")], author="soundstage")
    registry.drop()
    assert (await registry.resolve("greet")).version == 1


async def test_resolve_by_label_and_by_version(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    await labels.move(pool, "greet", "production", Target(2), writer)
    registry = Registry(pool)
    assert (await registry.resolve("greet")).name == "greet@2"
    assert (await registry.resolve("greet", "3")).render({"message": "Hi"})[1]["content"] == "3: Hi"
    for missing in ("staging", "9", "0", "-1", "99999999999999"):
        with pytest.raises(NotFound):
            await registry.resolve("greet", missing)


async def test_optimistic_concurrency_on_a_label(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    made = await labels.move(pool, "greet", "production", Target(1), writer, revision=0)
    assert made["revision"] == 1
    with pytest.raises(Conflict):
        await labels.move(pool, "greet", "production", Target(2), writer, revision=0)
    results = await asyncio.gather(
        *(labels.move(pool, "greet", "production", Target(v), writer, revision=1) for v in (2, 3)),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Conflict", "dict"]


async def test_rollback_is_one_call_and_one_more_row(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    for version in (1, 2, 3):
        await labels.move(pool, "greet", "production", Target(version), writer)
    assert (await labels.roll_back(pool, "greet", "production", writer))["version"] == 2
    await labels.move(pool, "greet", "production", Target(2, {3: 25}), writer)
    ended = await labels.roll_back(pool, "greet", "production", writer)
    assert (ended["version"], ended["canaries"]) == (2, None)
    async with pool.connection() as connection:
        row = await (await connection.execute("select count(*) as n from label_moves")).fetchone()
    assert row == {"n": 6}


async def test_rollbacks_go_back_and_back(pool: Pool, writer: Writer) -> None:
    """Not to and fro between the last two: the one that was taken back is bad."""
    await three(pool, writer)
    for version in (1, 2, 3):
        await labels.move(pool, "greet", "production", Target(version), writer)
    back = [(await labels.roll_back(pool, "greet", "production", writer))["version"] for _ in range(2)]
    assert back == [2, 1]
    with pytest.raises(Conflict, match="never named another"):
        await labels.roll_back(pool, "greet", "production", writer)
    await labels.move(pool, "greet", "production", Target(3), writer, note="rollback")  # a note is no rollback
    await labels.move(pool, "greet", "production", Target(3, {2: 5}), writer)
    await labels.move(pool, "greet", "production", Target(2), writer)
    found = [await labels.roll_back(pool, "greet", "production", writer) for _ in range(2)]
    assert [(row["version"], row["canaries"]) for row in found] == [(3, None), (1, None)]


async def test_a_rollback_honours_the_revision_that_was_seen(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    for version in (1, 2, 3):
        label = await labels.move(pool, "greet", "production", Target(version), writer)
    seen = label["revision"]
    assert (await labels.roll_back(pool, "greet", "production", writer, revision=seen))["version"] == 2
    with pytest.raises(Conflict) as stale:
        await labels.roll_back(pool, "greet", "production", writer, revision=seen)
    assert (stale.value.code, stale.value.param) == ("label_moved", "revision")


async def test_two_rollbacks_at_once_are_one(pool: Pool, writer: Writer) -> None:
    """Both saw the same bad release: together they do not go back two."""
    await three(pool, writer)
    for version in (1, 2, 3):
        label = await labels.move(pool, "greet", "production", Target(version), writer)
    both = [labels.roll_back(pool, "greet", "production", writer, revision=label["revision"]) for _ in range(2)]
    found = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["Conflict", "dict"]


async def test_rollback_of_nothing(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    with pytest.raises(NotFound):
        await labels.roll_back(pool, "greet", "production", writer)
    await labels.move(pool, "greet", "production", Target(1), writer)
    with pytest.raises(Conflict):
        await labels.roll_back(pool, "greet", "production", writer)


async def test_a_protected_label_needs_a_confirmation(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    await labels.move(pool, "greet", "production", Target(1), writer, protected=True)
    with pytest.raises(Conflict, match="is protected"):
        await labels.move(pool, "greet", "production", Target(2), writer)
    with pytest.raises(Conflict, match="is protected"):
        await labels.remove(pool, "greet", "production", writer)
    assert (await labels.move(pool, "greet", "production", Target(2), writer, confirm=True))["version"] == 2
    await labels.remove(pool, "greet", "production", writer, confirm=True)


async def test_canaries_are_sticky_and_near_their_weights(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    await labels.move(pool, "greet", "production", Target(1, {2: 20, 3: 10}), writer)
    registry = Registry(pool)
    keys = [f"session-{n}" for n in range(1000)]
    first = [(await registry.resolve("greet", sticky=key)).version for key in keys]
    again = [(await registry.resolve("greet", sticky=key)).version for key in keys]
    assert first == again
    assert 150 <= first.count(2) <= 250
    assert 65 <= first.count(3) <= 135


async def test_a_tenants_label_stands_over_everyones(pool: Pool, writer: Writer) -> None:
    async with pool.connection() as connection:
        await connection.execute("insert into tenants (id) values ('acme'), ('other')")
    await three(pool, writer)
    await labels.move(pool, "greet", "production", Target(1), writer)
    acme = Writer("key_acme", "acme")
    own = await save_release(pool, recipe("Own: {{ message }}"), acme)
    await labels.move(pool, "greet", "production", Target(own.version), acme)
    registry = Registry(pool)
    assert (await registry.resolve("greet", tenant="acme")).version == own.version
    assert (await registry.resolve("greet", tenant="other")).version == 1
    with pytest.raises(NotFound):
        await registry.resolve("greet", str(own.version), tenant="other")
    with pytest.raises(NotFound):
        await labels.move(pool, "greet", "production", Target(own.version), Writer("key_other", "other"))


async def test_with_the_database_away_what_was_known_goes_on(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    await labels.move(pool, "greet", "production", Target(1), writer)
    registry = Registry(pool)
    await registry.resolve("greet")
    registry.drop()
    await pool.close()
    assert (await registry.resolve("greet")).version == 1
    with pytest.raises(Unavailable):
        await registry.resolve("never-asked-for")


async def test_a_release_is_compiled_once_whatever_the_epoch(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    await labels.move(pool, "greet", "production", Target(1), writer)
    registry = Registry(pool)
    before = await registry.resolve("greet")
    registry.drop()
    assert await registry.resolve("greet") is before


async def test_a_golden_render_is_kept_with_the_release_and_must_hold(pool: Pool, writer: Writer) -> None:
    said = ({"role": "system", "content": "You are brief."}, {"role": "user", "content": "Hi"})
    golden = Golden({"message": "Hi"}, (), said)
    await save_release(pool, recipe(goldens=(golden,)), writer)
    with pytest.raises(InvalidRequest, match="golden render 0: differs in message 1") as raised:
        await save_release(pool, recipe("Oh: {{ message }}", goldens=(golden,)), writer)
    assert raised.value.code == "golden_differs"


async def test_every_change_is_in_the_audit_chain_with_its_actor(pool: Pool, writer: Writer) -> None:
    await save_release(pool, recipe(), writer)
    await labels.move(pool, "greet", "production", Target(1), writer)
    async with pool.connection() as connection:
        rows = await (await connection.execute("select actor, action, object from audit order by id")).fetchall()
    assert {"actor": "key_test", "action": "insert", "object": "releases:*/greet/1"} in rows
    assert {"actor": "key_test", "action": "insert", "object": "labels:*/greet/production"} in rows
    verdict = await audit.verify(pool)
    assert verdict.whole
    assert verdict.entries == len(rows)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("update audit set detail = 'x' where id = 2", "its content was changed"),
        ("update audit set actor = 'somebody else' where id = 2", "its content was changed"),
        ("delete from audit where id = 2", "an entry is missing"),
        ("delete from audit where id = (select max(id) from audit)", "the newest entries are missing"),
    ],
)
async def test_a_chain_that_was_broken_is_found(pool: Pool, writer: Writer, damage: str, why: str) -> None:
    await three(pool, writer)
    async with pool.connection() as connection:
        await connection.execute("alter table audit disable trigger user")
        await connection.execute(damage.encode())
        await connection.execute("alter table audit enable trigger user")
    verdict = await audit.verify(pool)
    assert not verdict.whole
    assert verdict.why == why


async def test_a_chain_made_anew_is_found_by_a_head_that_was_kept(pool: Pool, writer: Writer) -> None:
    await three(pool, writer)
    assert (await audit.verify(pool, head="f" * 64)).why == "the given head is not in the chain"
    head = (await audit.verify(pool)).head
    await save_release(pool, recipe("new {{ message }}"), writer)
    assert (await audit.verify(pool, head=head)).whole
