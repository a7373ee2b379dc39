"""A lease belongs to the key that took it; servers that an admin or the settings name are no worker's to speak for."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from tests.fakes.studio import WORKER_KEY, Studio, studio_over
from tests.fakes.upstream import recording_upstream, saying
from tests.fakes.wait import answers
from tests.orchestrator.test_registered import KEY, OtherServer, model_of, registered

pytestmark = pytest.mark.slow

NOWHERE, ELSEWHERE = "http://127.0.0.1:9", "http://127.0.0.1:10"
HI = [{"role": "user", "content": "Hi"}]


async def another_worker_key(studio: Studio) -> str:
    made = await studio.post("/v1/keys", {"name": "another machine", "scopes": ["worker"]})
    secret: str = made.json()["secret"]
    return secret


async def take(studio: Studio, key: str, worker_id: str = "w-1", url: str = NOWHERE, **said: Any) -> httpx2.Response:
    return await studio.post("/v1/workers", {"id": worker_id, "kind": "chat", "url": url, **said}, key=key)


async def leave(studio: Studio, key: str, worker_id: str = "w-1") -> httpx2.Response:
    return await studio.http.delete(f"/v1/workers/{worker_id}", headers={"authorization": f"Bearer {key}"})


async def reached_at(studio: Studio) -> dict[str, str]:
    return {each["id"]: each["url"] for each in (await studio.get("/v1/workers")).json()["data"]}


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_another_key_cannot_renew_move_or_end_a_lease(migrated_dsn: str, tmp_path: Path) -> None:
    """Neither at the orchestrator that gave it nor at another."""
    async with AsyncExitStack() as stack:
        studios = [await stack.enter_async_context(studio_over(migrated_dsn, tmp_path)) for _ in range(2)]
        other = await another_worker_key(studios[0])
        assert (await take(studios[0], WORKER_KEY)).status_code == 200
        for studio in studios:
            for url in (NOWHERE, ELSEWHERE):
                assert refusal(await take(studio, other, url=url)) == (409, "lease_of_another_key")
            assert refusal(await leave(studio, other)) == (409, "lease_of_another_key")
            assert await reached_at(studios[0]) == {"w-1": f"{NOWHERE}/"}
        assert (await take(studios[1], WORKER_KEY, url=ELSEWHERE)).status_code == 200, "its own key moves it"
        assert (await leave(studios[1], WORKER_KEY)).status_code == 200
        assert (await take(studios[1], other)).status_code == 200, "it is free again"
        assert (await leave(studios[1], studios[1].key)).status_code == 200, "an admin ends any"


async def test_a_lease_that_ran_out_is_anybodys(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path, lease_seconds=0.3) as studio:
        other = await another_worker_key(studio)
        await take(studio, WORKER_KEY)

        async def taken() -> bool:
            return (await take(studio, other)).status_code == 200

        await answers(taken, "a lease that nobody renews")


async def test_a_lease_of_before_owners_goes_to_who_renews_it(studio: Studio, migrated_dsn: str) -> None:
    other = await another_worker_key(studio)
    await take(studio, WORKER_KEY)
    async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as connection:
        await connection.execute("update workers set owner = null")
    assert (await take(studio, WORKER_KEY)).status_code == 200
    assert refusal(await take(studio, other)) == (409, "lease_of_another_key")


@pytest.mark.parametrize("worker_id", ["engine:other", "engine:new", "static:http-127.0.0.1-9", "static:x"])
async def test_an_id_of_an_admins_server_is_out_of_a_workers_reach(
    worker_id: str, migrated_dsn: str, tmp_path: Path
) -> None:
    """The server's key and what callers say to it go to the address that the admin registered, and nowhere else."""
    async with (
        recording_upstream() as thief,
        studio_over(migrated_dsn, tmp_path, probe_seconds=0.05, image_worker_urls=NOWHERE) as studio,
    ):
        thief.script = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        server = OtherServer("/v1/chat/completions")
        await registered(studio, server.app(), api_key=KEY)
        await model_of(studio, "llama-3")
        models = [{"id": "llama-3", "abilities": ["chat"]}]
        stolen = await take(studio, WORKER_KEY, worker_id, str(thief.url).rstrip("/"), models=models)
        assert refusal(stolen) == (403, "reserved_worker_id")
        assert stolen.json()["error"]["param"] == "id"
        assert (await leave(studio, WORKER_KEY, worker_id)).status_code == 403
        for _ in range(3):
            await studio.sdk().chat.completions.create(model="llama-3", messages=HI)  # type: ignore[arg-type]
        assert (len(server.asked), thief.received) == (3, [])


async def test_a_row_of_such_an_id_is_not_read(studio: Studio, migrated_dsn: str) -> None:
    """Whatever wrote it: an older orchestrator did not refuse it."""
    announcement = '{"id": "engine:x", "kind": "chat", "url": "http://127.0.0.1:9"}'
    async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as connection:
        for worker_id in ("engine:x", "known"):
            await connection.execute(
                "insert into workers (id, kind, url, announcement, lease_until)"
                " values (%s, 'chat', %s, %s, now() + interval '1 hour')",
                (worker_id, NOWHERE, announcement.replace("engine:x", worker_id)),
            )

    async def known() -> bool:
        return bool(await reached_at(studio))

    await answers(known, "the row of the other id")
    assert list(await reached_at(studio)) == ["known"]


async def test_a_servers_key_does_not_follow_a_redirect(migrated_dsn: str, tmp_path: Path) -> None:
    async with (
        recording_upstream() as thief,
        recording_upstream() as server,
        studio_over(migrated_dsn, tmp_path, probe_seconds=0.05) as studio,
    ):
        away = b"HTTP/1.1 307 Go\r\nlocation: %sv1/models\r\ncontent-length: 0\r\n\r\n" % str(thief.url).encode()
        server.script = saying(away)
        declared = {"models": ["m"], "abilities": ["chat"], "api_key": KEY}
        assert (await studio.post("/v1/workers", {"name": "s", "url": str(server.url), **declared})).status_code == 200

        async def asked() -> bool:
            return len(server.received) > 2

        await answers(asked, "probes")
        assert server.received[0].header(b"authorization") == f"Bearer {KEY}".encode()
        assert thief.received == []


async def test_a_worker_key_that_the_orchestrator_made_is_what_workers_are_called_with(
    migrated_dsn: str, tmp_path: Path
) -> None:
    async with (
        recording_upstream() as worker,
        recording_upstream() as image,
        studio_over(
            migrated_dsn,
            tmp_path,
            wan_worker_api_key=None,
            image_worker_urls=str(image.url).rstrip("/"),
            probe_seconds=0.05,
        ) as studio,
    ):
        key = (tmp_path / "keys" / "worker_key").read_text().strip()
        worker.script = image.script = saying(b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"data": []}')
        models = [{"id": "small", "abilities": ["chat"]}]
        assert (await take(studio, key, url=str(worker.url).rstrip("/"), models=models)).status_code == 200
        await studio.post("/v1/chat/completions", {"model": "small", "messages": HI})
        assert worker.last.header(b"authorization") == f"Bearer {key}".encode()

        async def probed() -> bool:
            return bool(image.received)

        await answers(probed, "a probe")
        assert image.last.header(b"authorization") == f"Bearer {key}".encode()
