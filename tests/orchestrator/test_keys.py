"""API keys as an admin handles them: made, listed, changed, rotated, revoked; by HTTP and from the command line."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers

pytestmark = pytest.mark.slow

CHAT = {"model": "small", "messages": [{"role": "user", "content": "one two"}]}


async def made(studio: Studio, **wanted: Any) -> dict[str, Any]:
    answer = await studio.post("/v1/keys", {"name": "an app", "scopes": ["chat"], **wanted})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_key_is_made_used_listed_and_revoked(studio: Studio) -> None:
    await studio.chat_worker()
    key = await made(studio, limits={"requests_per_minute": 100})
    assert (await studio.post("/v1/chat/completions", CHAT, key=key["secret"])).status_code == 200
    listed = (await studio.get("/v1/keys")).json()["data"]
    assert [row["name"] for row in listed] == ["an app", "workers", "local"]
    assert all("secret" not in row and "sha256" not in row for row in listed)
    revoked = await studio.http.delete(f"/v1/keys/{key['id']}", headers={"authorization": f"Bearer {studio.key}"})
    assert revoked.json()["revoked_at"] is not None
    answer = await studio.post("/v1/chat/completions", CHAT, key=key["secret"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert key["id"] not in [row["id"] for row in (await studio.get("/v1/keys")).json()["data"]]
    assert key["id"] in [row["id"] for row in (await studio.get("/v1/keys?revoked=true")).json()["data"]]


async def test_limits_change_at_once(studio: Studio) -> None:
    await studio.chat_worker()
    key = await made(studio)
    change = {"limits": {"requests_per_minute": 1}}
    headers = {"authorization": f"Bearer {studio.key}"}
    assert (await studio.http.patch(f"/v1/keys/{key['id']}", json=change, headers=headers)).status_code == 200
    statuses = [(await studio.post("/v1/chat/completions", CHAT, key=key["secret"])).status_code for _ in range(2)]
    assert statuses == [200, 429]


BAD: dict[str, dict[str, Any]] = {
    "scopes.0": {"scopes": ["everything"]},
    "scopes": {"scopes": []},
    "name": {"name": ""},
    "age_assured": {"max_tier": 2},
    "limits.requests_per_minute": {"limits": {"requests_per_minute": 0}},
    "limits.surprise": {"limits": {"surprise": 1}},
    "limits": {"limits": {"budget_tokens": 5}},
    "surprise": {"surprise": 1},
}


async def test_a_key_that_is_wrong_is_refused(studio: Studio) -> None:
    for param, wanted in BAD.items():
        answer = await studio.post("/v1/keys", {"name": "an app", "scopes": ["chat"], **wanted})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    answer = await studio.post("/v1/keys", {"name": "an app", "scopes": ["chat"], "tenant": "nobody"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


async def test_only_an_admin_handles_keys(studio: Studio) -> None:
    key = await made(studio, scopes=["chat", "images", "pipelines"])
    for path in ("/v1/keys", f"/v1/keys/{key['id']}"):
        assert (await studio.get(path, key=key["secret"])).status_code == 403
    assert (await studio.post("/v1/keys", {"name": "x", "scopes": ["admin"]}, key=key["secret"])).status_code == 403
    assert (await studio.get("/v1/keys/key_unknown")).status_code == 404


async def typed(data: Path, *arguments: str, key: str = "", port: str = "1") -> tuple[int, str, str]:
    """Exit status, output and complaint of a command line; an empty key: it has to find one."""
    given = {**os.environ, "DATA_DIR": str(data), "SOUNDSTAGE_API_KEY": key, "PORT": port}
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    command = (sys.executable, "-m", "orchestrator", *arguments)
    process = await asyncio.create_subprocess_exec(*command, env=given, **pipes)  # type: ignore[arg-type]
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.parametrize("command", [("keys", "list"), ("jobs", "list"), ("workers", "list")])
async def test_a_command_line_that_asks_nobody_says_what_to_do(tmp_path: Path, command: tuple[str, ...]) -> None:
    status, _, why = await typed(tmp_path, *command, key="any")
    assert (status, "No orchestrator answers at http://127.0.0.1:1" in why, "set PORT" in why) == (1, True, True)
    status, _, why = await typed(tmp_path, *command)
    assert (status, why.startswith("There is no key to ask with: "), "DATA_DIR" in why) == (1, True, True)


async def test_the_command_line(studio: Studio, tmp_path: Path) -> None:
    async def keys(*arguments: str, key: str = studio.key) -> tuple[int, str, str]:
        return await typed(tmp_path, "keys", "--url", studio.url, *arguments, key=key)

    status, out, _ = await keys("create", "an app", "--scopes", "chat", "--requests-per-minute", "5")
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert (status, lines["scopes"], lines["limits"]) == (0, "chat", "{'requests_per_minute': 5}")
    assert (await studio.get("/v1/models", key=lines["secret"])).status_code == 200
    status, out, _ = await keys("revoke", lines["id"])
    assert status == 0
    status, out, _ = await keys("list")
    assert (status, lines["id"] in out, lines["secret"] in out) == (0, False, False)
    assert (await keys("rotate", "key_unknown"))[::2] == (1, "There is no key `key_unknown`.\n")
    assert (await keys("list", key="wrong"))[::2] == (1, "This API key is not known.\n")


async def test_when_a_key_was_last_used_is_kept(
    migrated_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.access.quotas.FLUSH_SECONDS", 0.05)
    async with studio_over(migrated_dsn, tmp_path) as studio:
        await studio.chat_worker()
        key = await made(studio)
        assert key["last_used_at"] is None

        async def known() -> bool:
            await studio.post("/v1/chat/completions", CHAT, key=key["secret"])
            return (await studio.get(f"/v1/keys/{key['id']}")).json()["last_used_at"] is not None

        await answers(known)
