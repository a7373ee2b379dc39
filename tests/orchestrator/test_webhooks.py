"""Webhooks: signed, told again, and never to a private address."""

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from core.db.pool import Pool, open_pool
from core.errors import InvalidRequest
from core.http.serving import bind
from orchestrator.access.keys import create_key
from orchestrator.jobs.webhooks import Webhooks, refuse_private

JOB = "job_" + "1" * 24


HOSTS = (
    *("[::1]", "127.0.0.1:8443", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]"),
)


@pytest.mark.parametrize("url", [f"https://{host}/x" for host in HOSTS])
async def test_a_private_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await refuse_private(url)
    assert refused.value.code == "private_webhook"


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "a..example", "." * 3, "xn--" + "é" * 70])
async def test_a_host_that_is_no_name_is_refused_at_once(host: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await refuse_private(f"https://{host}/x")
    assert (refused.value.code, refused.value.param) == ("bad_webhook", "webhook")


class Receiver:
    """`status` is what it answers; it keeps what it was told."""

    def __init__(self) -> None:
        self.status = 204
        self.told: list[tuple[dict[str, str], bytes]] = []
        self.elsewhere = 0

    async def hook(self, request: web.Request) -> web.Response:
        self.told.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        where = {"location": "/elsewhere"} if self.status == 302 else {}
        return web.Response(status=self.status, headers=where)

    async def other(self, request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, str]]:
    receiver, app = Receiver(), web.Application()
    app.add_routes([web.post("/hook", receiver.hook), web.route("*", "/elsewhere", receiver.other)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    sock = bind("127.0.0.1", 0)
    await web.SockSite(runner, sock).start()
    try:
        yield receiver, f"http://127.0.0.1:{sock.getsockname()[1]}/hook"
    finally:
        await runner.cleanup()


async def ended_job(pool: Pool, url: str) -> None:
    await create_key(pool, "caller", ["pipelines"])
    async with pool.connection() as connection:
        await connection.execute(
            "insert into jobs (id, pipeline, tenant, key_id, way, state, caller, request, request_sha256, webhook,"
            " webhook_state, answer, ended_at, deadline_at)"
            " select %s, 'x', tenant, id, 'background', 'completed', '{}',"
            " '{}', repeat('0', 64), %s, 'waiting', '{}', now(), now() from api_keys limit 1",
            (JOB, url),
        )


async def state(pool: Pool) -> tuple[str, int, bool]:
    """Its state, how often it was tried, and whether it is to be tried now."""
    query = "select webhook_state, webhook_tries, webhook_at <= now() as due from jobs"
    async with pool.connection() as connection:
        row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row["webhook_state"], row["webhook_tries"], row["due"]


async def due(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute("update jobs set webhook_at = now()")


async def test_it_is_signed_and_told_until_it_is_taken(migrated_dsn: str) -> None:
    async with open_pool(migrated_dsn, size=2) as pool, receiving() as (receiver, url), aiohttp.ClientSession() as http:
        await ended_job(pool, url)
        webhooks = Webhooks(pool, "master", allowed=lambda address: True)
        for receiver.status, tries in ((500, 1), (302, 2)):
            assert await webhooks.once(http) == 1
            assert await state(pool) == ("waiting", tries, False)
            assert await webhooks.once(http) == 0, "not before its time"
            await due(pool)
        receiver.status = 200
        assert await webhooks.once(http) == 1
        assert (await state(pool))[:2] == ("delivered", 3)
        assert (len(receiver.told), receiver.elsewhere) == (3, 0), "a redirect is not followed"
        headers, body = receiver.told[-1]
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        secret = base64.b64decode(webhooks.secret("default").removeprefix("whsec_"))
        assert (
            headers["webhook-signature"]
            == "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
        )
        assert len({told[0]["webhook-id"] for told in receiver.told}) == 1
        assert webhooks.secret("other") != webhooks.secret("default")
        assert b'"type":"job.completed"' in body


async def test_it_is_given_up_after_the_last_pause(migrated_dsn: str) -> None:
    async with open_pool(migrated_dsn, size=2) as pool, receiving() as (receiver, url), aiohttp.ClientSession() as http:
        await ended_job(pool, url)
        receiver.status = 500
        webhooks = Webhooks(pool, "master", allowed=lambda address: True)
        for _ in range(8):
            assert await webhooks.once(http) == 1
            await due(pool)
        assert (await state(pool))[:2] == ("given_up", 8)
        assert await webhooks.once(http) == 0


async def test_a_private_address_is_never_told(migrated_dsn: str) -> None:
    async with open_pool(migrated_dsn, size=2) as pool, receiving() as (receiver, url):
        await ended_job(pool, url)
        webhooks = Webhooks(pool, "master")
        async with webhooks.session() as http:
            assert await webhooks.once(http) == 1
        assert (receiver.told, (await state(pool))[0]) == ([], "waiting")
