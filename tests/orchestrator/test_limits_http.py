"""Bounds that a running orchestrator keeps: time for each route, depth of JSON, and readiness that does not hang."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from core.errors import InvalidRequest
from orchestrator.gateway import body_texts
from orchestrator.operate.epoch import Epoch
from tests.fakes.cable import cable
from tests.fakes.studio import studio_over
from tests.fakes.wait import soon

HI: Any = [{"role": "user", "content": " ".join(["word"] * 16)}]
slow = pytest.mark.slow


def nested(field: str, depth: int) -> bytes:
    return b'{"model":"m","%s":' % field.encode() + b'[{"a":' * depth + b'"x"' + b"}]" * depth + b"}"


@pytest.mark.parametrize("depth", [60, 400, 480])
@pytest.mark.parametrize("field", ["messages", "tools", "input", "documents"])
def test_what_nests_deeper_than_any_message_is_refused(field: str, depth: int) -> None:
    """Short of the decoder's own bound, too."""
    with pytest.raises(InvalidRequest) as caught:
        body_texts.read(nested(field, depth), responses=field == "input")
    assert caught.value.code == "json_too_deep"


def test_what_nests_as_tools_do_is_read() -> None:
    found = body_texts.read(nested("tools", 45))
    assert "x" in found.strings


@slow
async def test_each_route_has_limits_of_its_own(migrated_dsn: str, tmp_path: Path) -> None:
    limits = {"/v1/chat/completions": {"first_byte": 1.0}, "/v1/completions": {"total": 1.0}}
    async with studio_over(migrated_dsn, tmp_path, route_limits=limits) as studio:
        worker = await studio.chat_worker()
        client = studio.sdk()
        await worker.behave(first_token_seconds=30.0)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="small", messages=HI)
        assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
        await worker.behave(first_token_seconds=0.0, token_seconds=0.4)
        stream = await client.completions.create(model="small", prompt=HI[0]["content"], stream=True, max_tokens=16)
        with pytest.raises(openai.APIError, match="stopped answering"):
            async for _ in stream:
                pass
        body = json.dumps({"model": "small", "messages": HI, "stream": True, "max_tokens": 5}).encode()
        headers = {"authorization": f"Bearer {studio.key}"}
        whole = await studio.http.post("/v1/chat/completions", content=body, headers=headers)
        assert whole.text.endswith("data: [DONE]\n\n"), "two seconds in all, each piece in time"


async def test_a_database_that_hangs_is_not_waited_for() -> None:
    """Whoever asks meanwhile waits for the same question; when it is answered, that counts."""
    mended, asked = asyncio.Event(), 0

    class Hanging:
        @asynccontextmanager
        async def connection(self) -> Any:
            nonlocal asked
            asked += 1
            await mended.wait()
            yield self

        async def execute(self, _: str) -> "Hanging":
            return self

        async def fetchone(self) -> dict[str, int]:
            return {"value": 1}

    epoch = Epoch("", Hanging(), ())  # type: ignore[arg-type]  # as much of a pool as it uses
    assert await soon(asyncio.gather(*(epoch.read_within(0.01) for _ in range(5)))) == [False] * 5
    assert asked == 1
    mended.set()
    assert await soon(epoch.read_within(10))


@slow
async def test_readiness_sees_at_once_that_the_database_is_away(migrated_dsn: str, tmp_path: Path) -> None:
    async with (
        cable(migrated_dsn, tmp_path) as line,
        studio_over(line.dsn, tmp_path / "data") as studio,
    ):
        await studio.chat_worker()
        assert (await studio.http.get("/readyz")).status_code == 200
        line.cut()
        first = await studio.http.get("/readyz")
        assert (first.status_code, first.json()["database"], first.json()["ready"]) == (503, False, False)
        await line.mend()
        while (await studio.http.get("/readyz")).status_code != 200:
            pass
