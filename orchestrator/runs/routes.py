"""/v1/runs: what was sent and answered, by hash; proved by rendering again. A key sees its own runs, an admin all."""

import json
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from core.canonical import messages_sha256, sha256_of_fields
from core.control_tokens import of_record
from core.db.pool import Pool
from core.errors import Conflict, Forbidden, NotFound
from core.http.paging import After, Limit, page, unknown_after
from orchestrator.access.dependencies import counted, needs
from orchestrator.access.keys import Key, Keys
from orchestrator.access.quotas import Quotas
from orchestrator.recipes.recipe import RecipeRunner, unrecorded
from orchestrator.runs.contents import Vault
from orchestrator.runs.judge import caller_of
from orchestrator.runs.record import Contents, Run, RunLog
from prompts import read
from prompts.registry import Registry
from prompts.render import Message


class Replay(BaseModel):
    """`variables` and `history` are needed where the tenant keeps no contents. `call` asks the engine again; then
    `fields` too, where the caller sent more than numbers (tools, stop)."""

    variables: dict[str, Any] | None = None
    history: list[dict[str, Any]] | None = None
    fields: dict[str, Any] | None = None
    call: bool = False


def router(
    keys: Keys, quotas: Quotas, pool: Pool, log: RunLog, vault: Vault, registry: Registry, recipes: RecipeRunner
) -> APIRouter:
    api = APIRouter(prefix="/v1/runs", tags=["runs"])
    any_key = Annotated[Key, Depends(needs(keys))]
    admin_key = Annotated[Key, Depends(needs(keys, "admin"))]

    async def find(run_id: str, key: Key) -> dict[str, Any]:
        await log.written()
        async with pool.connection() as connection:
            row = await (await connection.execute("select * from runs where id = %s", (run_id,))).fetchone()
        if row is None or (row["key_id"] != key.id and "admin" not in key.scopes):
            raise NotFound("There is no such run.", code="run_not_found")
        return row

    @api.get("")
    async def listed(_: admin_key, after: After = None, limit: Limit = 100) -> dict[str, Any]:
        """The newest first; `after` is the last id of the page before."""
        await log.written()
        query = (
            "select * from runs where %(after)s::text is null"
            " or (at, id) < (select at, id from runs where id = %(after)s) order by at desc, id desc limit %(limit)s"
        )
        async with pool.connection() as connection:
            there = await connection.execute("select from runs where id = %s", (after,))
            if after is not None and not there.rowcount:
                raise unknown_after(after)
            rows = await (await connection.execute(query, {"after": after, "limit": limit + 1})).fetchall()
        return page(rows, limit)

    @api.get("/{run_id}")
    async def one(run_id: str, key: any_key) -> dict[str, Any]:
        """The record, and the contents where the tenant keeps them."""
        row = await find(run_id, key)
        plain = await vault.open(run_id)
        return {"object": "run", **row, "contents": json.loads(plain) if plain else None}

    @api.post("/{run_id}/replay")
    async def replay(
        run_id: str, body: Replay, request: Request, key: any_key, release: str | None = None
    ) -> dict[str, Any]:
        """Render the run again and compare the hash; with `?release=`, show what another release would have sent. What
        a recipe says is shown to admins' keys alone: another key sees of each message its role and its hash."""
        admin = "admin" in key.scopes
        if release is not None and not admin:
            raise Forbidden("Only an admin's key compares releases: it is shown their text.", code="missing_scope")
        row = await find(run_id, key)
        if row["recipe"] is None or row["variables_sha256"] is None:
            raise Conflict("Only a run of a recipe can be replayed.", code="not_a_recipe")
        plain = await vault.open(run_id)
        given = _given(body, plain)
        if sha256_of_fields(given.variables, "variables") != row["variables_sha256"]:
            raise Conflict("These are not the run's variables.", param="variables", code="other_variables")
        then = await registry.resolve(row["recipe"], str(row["version"]), tenant=row["tenant"])
        messages = then.render(given.variables, given.history, of_record(row["control_tokens"]))
        digest = messages_sha256(messages)
        found: dict[str, Any] = {
            "run": run_id,
            "release": then.name,
            "messages": messages if admin else _hidden(messages, given.history),
            "messages_sha256": digest,
            "same": digest == row["messages_sha256"],
        }
        if release is not None:
            found["other"] = await _other(registry, row, release, given, messages)
        if body.call:
            run = msgspec.convert({k: v for k, v in row.items() if v is not None}, Run)
            fields = unrecorded(run.sampling or {}, given.fields)
            async with counted(request, quotas, key):
                output, again = await recipes.replay(then, messages, fields, run, caller_of(request.scope, key))
            same = again.output_sha256 == row["output_sha256"]
            found["called"] = {"run": again.id, "output": output, "same_output": same, "proof": again.proof}
        return found

    @api.delete("/{run_id}/contents")
    async def erase(run_id: str, key: any_key) -> dict[str, Any]:
        """Erase what the run was about. The record stays: it holds hashes only."""
        await find(run_id, key)
        return {"id": run_id, "erased": bool(await vault.erase(run=run_id))}

    return api


def _hidden(messages: list[Message], history: list[Any]) -> list[dict[str, Any]]:
    """The caller's own messages as they are; of the recipe's their role and their hash."""
    return [
        dict(one) if one in history else {"role": one["role"], "sha256": messages_sha256([one])} for one in messages
    ]


def _given(body: Replay, plain: bytes | None) -> Contents:
    """The variables, history and fields of a run: those sent, else those kept."""
    kept = msgspec.json.decode(plain, type=Contents) if plain else None
    if body.variables is None and kept is None:
        raise Conflict("The contents were not kept: send `variables` and `history`.", code="no_contents")
    kept = kept or Contents({}, [])
    return Contents(
        kept.variables if body.variables is None else body.variables,
        kept.history if body.history is None else body.history,
        fields=kept.fields if body.fields is None else body.fields,
    )


async def _other(
    registry: Registry, row: dict[str, Any], wanted: str, given: Contents, messages: list[Message]
) -> dict[str, Any]:
    """What another release makes of the same variables. Raises InvalidRequest where they do not fit it."""
    other = await registry.resolve(row["recipe"], wanted, tenant=row["tenant"])
    would = other.render(given.variables, given.history, of_record(row["control_tokens"]))
    names = (f"{row['recipe']}@{row['version']}", other.name)
    return {
        "release": other.name,
        "messages": would,
        "messages_sha256": messages_sha256(would),
        "diff": read.difference(read.spoken(messages), read.spoken(would), names),
    }
