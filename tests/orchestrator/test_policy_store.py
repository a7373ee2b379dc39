"""Policies from the database: versions, which is in force, and what happens when they cannot be read."""

from pathlib import Path

import psycopg
import pytest

from core.db.changes import Writer
from core.db.pool import open_pool
from core.errors import Conflict
from orchestrator.access.keys import Key
from orchestrator.operate.epoch import Epoch
from orchestrator.operate.seal import Seal, contents_key
from orchestrator.policy.store import Policies, PolicyUnavailableError, first_policy, put_in_force, save_policy
from orchestrator.runs.call import Refused
from orchestrator.runs.caller import Caller
from orchestrator.runs.contents import Vault
from orchestrator.runs.judge import Judge
from orchestrator.runs.record import RunLog

KEY = Key("k", "default", frozenset({"chat"}), 1, None)
WRITER = Writer("key_test")


async def test_a_tenants_policy_adds_to_everyones(migrated_dsn: str) -> None:
    async with open_pool(migrated_dsn) as pool:
        await first_policy(pool)
        await first_policy(pool)
        own = Writer("key_test", "default")
        version, created = await save_policy(pool, {"hard": [{"category": "own", "terms": ["zzown"]}]}, own)
        assert (version, created) == (1, True)
        assert await save_policy(pool, {"hard": [{"category": "own", "terms": ["zzown"]}]}, own) == (1, False)
        await put_in_force(pool, version, own)
        standing = await Policies(pool).standing("default")
        assert standing.rules.name == "policy@1+default/policy@1"
        assert [rule.category for rule in standing.rules.hard] == ["own"]


async def test_optimistic_concurrency(migrated_dsn: str) -> None:
    async with open_pool(migrated_dsn) as pool:
        await first_policy(pool)
        version, _ = await save_policy(pool, {"constraints": "other"}, WRITER)
        assert (await put_in_force(pool, version, WRITER, revision=1))["revision"] == 2
        with pytest.raises(Conflict):
            await put_in_force(pool, 1, WRITER, revision=1)
        with pytest.raises(Conflict, match="does not exist"):
            await put_in_force(pool, 99, WRITER)


async def test_policies_that_cannot_be_read_refuse_everything(migrated_dsn: str, tmp_path: Path) -> None:
    async with open_pool(migrated_dsn, wait_seconds=1) as pool:
        policies = Policies(pool)
        with pytest.raises(PolicyUnavailableError):  # none in force
            await policies.standing("default")
        await first_policy(pool)
        await policies.standing("default")
        log = RunLog(pool, Vault(pool, Seal(contents_key(tmp_path / "key"))))
        epoch = Epoch(migrated_dsn, pool, ())
        judge = Judge(policies, log, epoch, refuse_mismatch=True, stale_seconds=60)
        caller = Caller(KEY, "r", "/v1/chat/completions", "s")
        await pool.close()
        async with judge.call(caller) as call:
            assert (await call.judge(["hello"], "text")).action == "allow"
        old = Judge(policies, log, epoch, refuse_mismatch=True, stale_seconds=0)  # known, but not for how long
        policies_gone = Judge(Policies(pool), log, epoch, refuse_mismatch=True, stale_seconds=60)
        for failing in (old, policies_gone):
            with pytest.raises(Refused) as raised:
                async with failing.call(caller) as call:
                    await call.judge(["hello"], "text")
            assert raised.value.code == "check_failed"


async def test_a_key_may_hold_the_adult_tier_only_with_an_age_assurance(migrated_dsn: str) -> None:
    insert = (
        "insert into api_keys (id, tenant, name, sha256, scopes, max_tier, age_assured_at)"
        " values (%s, 'default', 'n', %s, '{chat}', 2, %s)"
    )
    async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.CheckViolation):
            await connection.execute(insert, ("a", b"a" * 32, None))
        await connection.execute(insert, ("b", b"b" * 32, "2026-01-01"))
