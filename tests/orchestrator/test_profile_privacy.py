"""Of a selfie nothing is found in the orchestrator: not in its database, its files, its logs, its answers or runs."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.canary import NAME, Canary, database_text, marked
from tests.fakes.client import connected, request
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers, eventually
from tests.vision.photos import ASTRONAUT, photo

PATH, ANALYZE = "/v1/profile/create", "/v1/profile/analyze"


@pytest.fixture(scope="module")
def canary() -> Canary:
    return marked(photo(ASTRONAUT))


@pytest.fixture
async def studio(migrated_dsn: str, tmp_path: Path) -> AsyncIterator[Studio]:
    """One that logs all it can."""
    async with studio_over(migrated_dsn, tmp_path, log_level="debug") as running:
        yield running


async def create(studio: Studio, canary: Canary, path: str = PATH, **fields: str) -> Any:
    return await studio.post(path, files={"image": (NAME, canary.data)}, data=fields)


async def test_after_success_failure_and_a_caller_who_left(
    studio: Studio,
    canary: Canary,
    migrated_dsn: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    chat, image, selfie = await studio.chat_worker(), await studio.image_worker(), await studio.selfie_worker()
    with caplog.at_level("DEBUG"):
        told = [
            await create(studio, canary, consent="true"),
            await create(studio, canary, consent="true", strength="0.5"),
            await create(studio, canary, ANALYZE),
            await create(studio, canary),  # no consent
            await create(studio, canary, consent="true", style="undressed"),  # refused
        ]
        image.status = 500
        told.append(await create(studio, canary, consent="true"))
        selfie.status = 400
        told.append(await create(studio, canary, consent="true"))
        selfie.held.clear()
        await _leave(studio, canary, selfie)
        assert [one.status_code for one in told] == [200, 200, 200, 400, 422, 502, 400]

        async def recorded() -> bool:
            return b"run_" in await database_text(migrated_dsn)

        await answers(recorded, "the run records")
    database = await database_text(migrated_dsn)
    assert b"lik_" in database
    assert canary.found_in(database) == []
    assert canary.found_below(tmp_path) == []
    printed = capfd.readouterr()
    assert canary.found_in((caplog.text + printed.out + printed.err).encode()) == []
    for one in told:
        assert canary.found_in(one.content + str(one.headers).encode()) == []
    chatted = str([call["body"] for call in await chat.received()]).encode()
    assert canary.found_in(chatted) == []


async def _leave(studio: Studio, canary: Canary, selfie: Any) -> None:
    parts = (
        b'--b\r\nContent-Disposition: form-data; name="consent"\r\n\r\ntrue\r\n'
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n' % NAME.encode()
    )
    headers = [
        (b"authorization", b"Bearer " + studio.key.encode()),
        (b"content-type", b"multipart/form-data; boundary=b"),
    ]
    async with connected(studio.port) as client:
        await client.send(request(b"POST", PATH.encode(), headers, parts + canary.data + b"\r\n--b--\r\n"))
        await eventually(lambda: selfie.running, "the analysis")
        client.leave()
    await eventually(lambda: selfie.left == 1, "the analysis' end")
