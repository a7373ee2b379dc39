"""What must not be written is refused by the database itself, to the owner of the tables too."""

import psycopg
import pytest
from psycopg import errors

from core.db.changes import Writer
from core.db.pool import Pool
from prompts import labels
from prompts.labels import Target
from prompts.store import save_release
from tests.prompts.recipes import recipe

_RUN = (
    "insert into runs (id, at, tenant, key_id, request_id, route, policy, floor, tier, decision, proof, status,"
    " milliseconds) values ('run_' || repeat('a', 24), now(), 'default', 'k', 'r', '/x', 'p', 'f', 0, 'allow', 'none',"
    " 200, 1)"
)

CHANGES = [
    "update template_versions set body = 'other'",
    "update template_versions set sha256 = repeat('0', 64)",
    "delete from template_versions",
    "truncate template_versions cascade",
    "update template_includes set included_version = 2",
    "delete from template_includes",
    "truncate template_includes",
    "update releases set model = 'other'",
    "update releases set tier = 2",
    "delete from releases",
    "truncate releases cascade",
    "update release_messages set role = 'user'",
    "delete from release_messages",
    "truncate release_messages",
    "update golden_renders set messages = '[]'",
    "delete from golden_renders",
    "update policies set document = '{}'",
    "delete from policies",
    "truncate policies",
    "update label_moves set author = 'other'",
    "delete from label_moves",
    "truncate label_moves",
    "update labels set version = 1 where name = 'guarded'",
    "update labels set protected = false where name = 'guarded'",
    "delete from labels where name = 'guarded'",
    "truncate labels",
    "update labels set name = 'other' where name = 'free'",
    "update labels set tenant = 'acme' where name = 'free'",
    "update runs set decision = 'refuse'",
    "delete from runs",
    "with said as (select set_config('soundstage.purge_runs', 'yes', true)) delete from runs using said",
    "truncate runs",
    "update audit set actor = 'nobody'",
    "delete from audit where id = 1",
    "delete from audit",
    "truncate audit",
    "update audit_head set id = 0",
    "delete from audit_head",
    "insert into release_messages (recipe, version, position, role) values ('greet', 1, 9, 'history')",
    "insert into golden_renders (recipe, version, position, variables, messages) values ('greet', 1, 9, '{}', '[]')",
    "insert into template_includes values ('greet/user', 1, 'greet/system', 1)",
    "insert into labels (recipe, name, version, tenant) values ('greet', 'x', 3, null)",
    "insert into labels (recipe, name, version, tenant) values ('greet', 'x', 3, 'other')",
    "update labels set canaries = '{\"3\": 5}' where name = 'free'",
    "insert into policies_in_force (tenant, version) values ('acme', 99)",
    "insert into run_contents values ('run_x', 'default', '', now())",
    "insert into releases (recipe, version, model, sampling, variables, sha256, policy_version)"
    " values ('greet', 9, 'm', '{}', '{}', repeat('1', 64), 77)",
]

MALFORMED = [
    "update labels set version = 99 where name = 'free'",
    *(
        "update labels set canaries = '{}' where name = 'free'".replace("{}", canaries)
        for canaries in (
            *(
                '{"1": 10}',
                '{"2": 100}',
                '{"2": 0}',
                '{"2": -1}',
                '{"2": 1.5}',
                '{"2": null}',
                '{"2": "5"}',
                '{"2": "x"}',
            ),
            *('{"99": 5}', '{"0": 5}', '{"x": 5}', "{}", "[]", "7", '{"2": 50, "4": 50}'),
        )
    ),
    "insert into releases (recipe, version, model, sampling, variables, sha256)"
    " select recipe, 9, model, sampling, variables, sha256 from releases where version = 1",
    "insert into release_messages (recipe, version, position, role) values ('greet', 99, 0, 'history')",
    "insert into template_versions (template, version, body, variables, sha256)"
    " values ('greet/user', 9, '', '{}', repeat('0', 64))",
    "insert into releases (recipe, version, model, sampling, variables, sha256, tier)"
    " values ('greet', 9, 'm', '{}', '{}', repeat('1', 64), 3)",
    "insert into releases (recipe, version, model, sampling, variables, sha256, control_tokens)"
    " values ('greet', 9, 'm', '{}', '{}', repeat('1', 64), 'ignore')",
    "insert into audit (actor, action, object) values ('x', 'y', 'z')",
    "update api_keys set max_tier = 2",
    "update tenants set max_tier = 3",
    "insert into runs (id) values ('not a run id')",
]


@pytest.fixture
async def filled(pool: Pool, writer: Writer) -> Pool:
    """Three releases (the third one tenant's own), a policy, a protected label and a free one, a run, a key."""
    async with pool.connection() as connection:
        for tenant in ("acme", "other"):
            await connection.execute("insert into tenants (id) values (%s)", (tenant,))
        await connection.execute(
            "insert into policies (version, document, author, sha256) values (1, '{}', 'test', repeat('2', 64))"
        )
        await connection.execute(_RUN)
        await connection.execute(
            "insert into api_keys (id, tenant, name, sha256, scopes) values ('k', 'acme', 'n', %s, '{chat}')",
            (b"s" * 32,),
        )
    golden = recipe("{% include 'shared/a' %} {{ message }}", includes={"shared/a": "Be kind."})
    await save_release(pool, golden, writer)
    await save_release(pool, recipe("Second: {{ message }}"), writer)
    await save_release(pool, recipe("Third: {{ message }}"), Writer("key_test", "acme"))
    await labels.move(pool, "greet", "guarded", Target(2), writer, protected=True)
    await labels.move(pool, "greet", "free", Target(1), writer)
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(
            "insert into releases (recipe, version, model, sampling, variables, sha256)"
            " values ('greet', 4, 'm', '{}', '{}', repeat('4', 64))"
        )
        await connection.execute(
            "insert into golden_renders (recipe, version, position, variables, messages)"
            " values ('greet', 4, 0, '{}', '[]')"
        )
    return pool


async def outcome(pool: Pool, statement: str) -> psycopg.Error | None:
    """What the database says to a statement of the tables' owner."""
    try:
        async with pool.connection() as connection:
            await connection.execute(statement.encode())
    except psycopg.Error as exc:
        return exc
    return None


async def test_the_owner_cannot_write_what_is_forbidden(filled: Pool) -> None:
    for statement in CHANGES:
        assert isinstance(await outcome(filled, statement), errors.RestrictViolation), statement


async def test_the_constraints_refuse_what_is_malformed(filled: Pool) -> None:
    for statement in MALFORMED:
        assert isinstance(await outcome(filled, statement), errors.IntegrityError | errors.DataError), statement


async def test_a_protected_label_moves_only_when_it_is_named(filled: Pool) -> None:
    async with filled.connection() as connection, connection.transaction():
        await connection.execute("select set_config('soundstage.move_protected', 'greet/guarded', true)")
        await connection.execute("update labels set version = 1 where name = 'guarded'")
    async with filled.connection() as connection:
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute("update labels set version = 2 where name = 'guarded'")


async def test_a_tenants_release_may_not_use_another_tenants_template(filled: Pool) -> None:
    both = (
        "do $$ begin insert into releases (recipe, version, model, sampling, variables, sha256, tenant)"
        " values ('greet', 9, 'm', '{}', '{}', repeat('9', 64), 'other');"
        " insert into release_messages values ('greet', 9, 0, 'user', 'greet/user', 3); end $$"
    )
    assert "belongs to another tenant" in str(await outcome(filled, both))
