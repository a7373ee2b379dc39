"""Names that tenants give to models: a tenant's before everyone's, known everywhere, listed for that tenant."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import OrchestratorSettings
from orchestrator.workers import cli as workers_cli
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers

pytestmark = pytest.mark.slow

HI = [{"role": "user", "content": "one two"}]


async def key_of(studio: Studio, tenant: str) -> str:
    await studio.http.put(f"/v1/tenants/{tenant}", json={}, headers=admin(studio))
    answer = await studio.post("/v1/keys", {"name": "an app", "scopes": ["chat", "images"], "tenant": tenant})
    secret: str = answer.json()["secret"]
    return secret


def admin(studio: Studio) -> dict[str, str]:
    return {"authorization": f"Bearer {studio.key}"}


async def named(studio: Studio, name: str, model: str, tenant: str | None = None) -> Any:
    return await studio.http.put(f"/v1/aliases/{name}", json={"model": model, "tenant": tenant}, headers=admin(studio))


async def asked(studio: Studio, model: str, key: str) -> int:
    answer = await studio.post("/v1/chat/completions", {"model": model, "messages": HI, "top_k": 3}, key=key)
    return answer.status_code


async def models(studio: Studio, key: str) -> dict[str, str]:
    return {each["id"]: each["root"] for each in (await studio.get("/v1/models", key=key)).json()["data"]}


async def test_a_tenants_own_name_goes_before_everyones(studio: Studio) -> None:
    small, big = await studio.chat_worker("a", ("small",)), await studio.chat_worker("b", ("org/big-7b",))
    acme, other = await key_of(studio, "acme"), await key_of(studio, "other")
    assert (await named(studio, "gpt-4o", "small")).json() == {"tenant": None, "name": "gpt-4o", "model": "small"}
    assert (await named(studio, "gpt-4o", "org/big-7b", "acme")).status_code == 200
    assert [await asked(studio, "gpt-4o", key) for key in (acme, other, other)] == [200] * 3
    assert [each["body"] for each in await big.received()] == [{"model": "org/big-7b", "messages": HI, "top_k": 3}]
    assert len(await small.received()) == 2
    assert await models(studio, acme) == {"small": "small", "org/big-7b": "org/big-7b", "gpt-4o": "org/big-7b"}
    assert (await models(studio, other))["gpt-4o"] == "small"
    assert (await studio.get("/v1/models/gpt-4o", key=acme)).json()["root"] == "org/big-7b"


async def test_a_name_hides_a_model_and_a_name_of_a_model_that_is_away_is_not_listed(studio: Studio) -> None:
    worker = await studio.chat_worker("a", ("small", "qwen_instruct"))
    key = await key_of(studio, "acme")
    await named(studio, "small", "gone", "acme")
    assert await asked(studio, "small", key) == 404
    assert await models(studio, key) == {"small": "small", "qwen_instruct": "small"}
    await named(studio, "small", "qwen_instruct", "acme")  # a worker's own alias may be meant
    assert await asked(studio, "small", key) == 200
    (received,) = await worker.received()
    assert received["body"]["model"] == "qwen_instruct"


async def test_a_form_is_rewritten_too(studio: Studio) -> None:
    worker = await studio.image_worker()
    await named(studio, "dall-e-3", "tiny-image")
    await studio.sdk().images.edit(model="dall-e-3", image=b"\x89PNG", prompt="a red hat")
    await studio.sdk().images.generate(model="dall-e-3", prompt="a red hat")
    assert [each["model"] for each in worker.received] == ["tiny-image"] * 2


async def test_another_orchestrator_knows_within_two_seconds(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path) as studio, studio_over(migrated_dsn, tmp_path) as other:
        await studio.chat_worker("a", ("small",))

        async def both_serve() -> bool:
            return await asked(other, "small", other.key) == 200

        await answers(both_serve, "the worker at both")
        assert await asked(other, "gpt-4o", other.key) == 404
        await named(studio, "gpt-4o", "small")

        async def known() -> bool:
            return await asked(other, "gpt-4o", other.key) == 200

        await answers(known, "the name at the other orchestrator")
        assert (await studio.http.delete("/v1/aliases/gpt-4o", headers=admin(studio))).status_code == 200
        assert await asked(studio, "gpt-4o", studio.key) == 404
        assert (await studio.http.delete("/v1/aliases/gpt-4o", headers=admin(studio))).status_code == 404


WRONG: dict[str, tuple[str, Any]] = {
    "a name for itself": ("small", {"model": "small"}),
    "a name that is no name": ("a b", {"model": "small"}),
    "a model that is no name": ("a", {"model": "a b"}),
    "an unknown tenant": ("a", {"model": "small", "tenant": "nobody"}),
    "nothing": ("a", {}),
}


async def test_what_is_wrong_is_a_400_and_only_an_admin_gives_names(studio: Studio) -> None:
    for name, (alias, body) in WRONG.items():
        answer = await studio.http.put(f"/v1/aliases/{alias}", json=body, headers=admin(studio))
        assert answer.status_code == 400, name
    key = await key_of(studio, "acme")
    for answer in (
        await studio.http.put("/v1/aliases/a", json={"model": "b"}, headers={"authorization": f"Bearer {key}"}),
        await studio.get("/v1/aliases", key=key),
    ):
        assert answer.json()["error"]["code"] == "missing_scope"


async def said(studio: Studio, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit status of a command, and what it wrote."""
    parser = argparse.ArgumentParser()
    workers_cli.add_commands(parser.add_subparsers(dest="command"))
    given = parser.parse_args([words[0], "--url", studio.url, "--key", studio.key, *words[1:]])
    status = await asyncio.to_thread(given.run, given, OrchestratorSettings.load())
    told = capsys.readouterr()
    return status, told.err if status else told.out


async def test_the_command_line(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    worker = await studio.chat_worker("a", ("small",))

    async def run(*words: str) -> tuple[int, str]:
        return await said(studio, capsys, *words)

    assert (await run("aliases", "set", "org/gpt", "small", "--tenant", "default"))[0] == 0
    assert "org/gpt  small" in (await run("aliases", "list"))[1]
    status, told = await run("workers", "add", "more", worker.url, "--abilities", "chat", "--alias", "m=small")
    assert (status, "engine:more" in told) == (0, True)

    async def there() -> bool:
        return (await studio.get("/v1/models/m")).status_code == 200

    await answers(there, "the server's model")
    listed = (await run("workers", "list"))[1]
    assert "engine:more" in listed
    assert (await run("workers", "drain", "engine:more"))[0] == 0
    assert (await run("workers", "undrain", "engine:more"))[0] == 0
    assert (await run("workers", "remove", "engine:more"))[0] == 0
    assert "engine:more" not in (await run("workers", "list"))[1]
    status, told = await run("aliases", "remove", "nothing")
    assert (status, "There is no alias `nothing`.\n" in told) == (1, True)
    status, told = await run("workers", "add", "x", worker.url, "--api-key-env", "NOT_THERE")
    assert (status, "There is no variable 'NOT_THERE' in the environment.\n" in told) == (1, True)
