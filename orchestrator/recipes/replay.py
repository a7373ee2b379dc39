"""POST /v1/runs/{id}/replay: a run of a recipe proved by rendering it again, and by asking its engine again."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from core.control_tokens import of_record
from core.db.pool import Pool
from core.errors import Conflict, Forbidden
from core.json.canonical import messages_sha256, sha256_of_fields
from orchestrator.access.dependencies import needs, one_request
from orchestrator.access.keys import Key, Keys
from orchestrator.access.quotas import Quotas
from orchestrator.recipes.fields import unrecorded
from orchestrator.recipes.recipe import RecipeRunner
from orchestrator.runs.caller import caller_of
from orchestrator.runs.contents import Vault
from orchestrator.runs.record import Contents, Run, RunLog
from orchestrator.runs.routes import find
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

    @api.post("/{run_id}/replay")
    async def replay(
        run_id: str, body: Replay, request: Request, key: any_key, release: str | None = None
    ) -> dict[str, Any]:
        """Render the run again and compare the hash; with `?release=`, show what another release would have sent. What
        a recipe says is shown to admins' keys alone: another key sees of each message its role and its hash."""
        admin = "admin" in key.scopes
        if release is not None and not admin:
            raise Forbidden("Only an admin's key compares releases: it is shown their text.", code="missing_scope")
        row = await find(pool, log, run_id, key)
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
            async with one_request(request, quotas, key):
                output, again = await recipes.replay(then, messages, fields, run, given, caller_of(request.scope, key))
            same = again.output_sha256 == row["output_sha256"]
            found["called"] = {"run": again.id, "output": output, "same_output": same, "proof": again.proof}
        return found

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
