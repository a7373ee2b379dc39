"""Webhooks: who asked for it is told when a background job has ended. Signed as standardwebhooks.com says, told again
with growing pauses until it is taken, and never sent to a private address.

What is still to be told stands in the jobs' own rows, so it outlives every process. It is told at least once: a
receiver knows a repeat by `webhook-id`.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from prometheus_client import Counter
from yarl import URL

from core import egress
from core.addresses import is_public
from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from core.errors import InvalidRequest
from orchestrator.jobs import store

log = logging.getLogger(__name__)

PAUSES = (5, 30, 120, 600, 3600, 21_600, 43_200)  # seconds before the next try
HELD_SECONDS = 60  # how long one orchestrator has for a try before another may make it
POLL_SECONDS = 1.0
BATCH = 16
LONGEST = 2048  # characters of an address
TIMEOUT = aiohttp.ClientTimeout(total=20, connect=10)
SENT = Counter("soundstage_webhooks_total", "Tries to tell that a job has ended.", ["outcome"])

_TAKE = """
update jobs set webhook_tries = webhook_tries + 1, webhook_at = now() + make_interval(secs => %s)
 where id in (select id from jobs where webhook_state = 'waiting' and ended_at is not null and webhook_at <= now()
              order by webhook_at limit %s for update skip locked)
returning id, tenant, pipeline, state, way, priority, error, tokens, image_steps, attempts, events, webhook,
          webhook_state, webhook_tries, created_at, started_at, ended_at
"""


async def refuse_private(url: str | None, allowed: egress.Allowed = is_public) -> None:
    """Raises InvalidRequest for an address that would never be told: said at once, and checked again when it is."""
    if url is None:
        return
    try:
        parsed = URL(url)
        if parsed.scheme not in ("http", "https") or parsed.user or parsed.password or len(url) > LONGEST:
            raise ValueError(url)
        await egress.JudgingResolver(allowed).resolve(parsed.host or "", parsed.port or 443)
    except egress.ForbiddenAddressError as exc:
        raise InvalidRequest(
            "A webhook goes to public addresses only.", param="webhook", code="private_webhook"
        ) from exc
    except ValueError as exc:  # also a name that DNS has no form for: a part of it is empty, or too long
        raise InvalidRequest(
            "A webhook is an http(s) address without credentials.", param="webhook", code="bad_webhook"
        ) from exc
    except OSError:
        return  # it may have an address by then


class Webhooks:
    """Tells who asked. Each tenant has a secret of its own, derived from the studio's."""

    def __init__(self, pool: Pool, secret: str, allowed: egress.Allowed = is_public) -> None:
        self._pool = pool
        self._master = secret.encode()
        self._allowed = allowed

    def secret(self, tenant: str) -> str:
        """What a tenant checks signatures with, as libraries of Standard Webhooks take it."""
        return "whsec_" + base64.b64encode(self._key(tenant)).decode()

    def _key(self, tenant: str) -> bytes:
        return hmac.digest(self._master, f"webhook:{tenant}".encode(), hashlib.sha256)

    def session(self) -> aiohttp.ClientSession:
        """What it tells with: no address that is not allowed is connected to."""
        return egress.session(self._allowed, timeout=TIMEOUT, limit=BATCH)

    async def run(self) -> None:
        """Until cancelled."""
        async with self.session() as http:
            while True:
                found = 0
                try:
                    found = await self.once(http)
                except DATABASE_AWAY as exc:
                    log.warning("webhooks wait for the database", extra={"reason": exc})
                if found < BATCH:
                    await asyncio.sleep(POLL_SECONDS)

    async def once(self, http: aiohttp.ClientSession) -> int:
        """How many were tried."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(_TAKE, (HELD_SECONDS, BATCH))).fetchall()
        await asyncio.gather(*(self._tell(http, row) for row in rows))
        return len(rows)

    async def _tell(self, http: aiohttp.ClientSession, row: Mapping[str, Any]) -> None:
        taken = await self._send(http, row)
        over = not taken and row["webhook_tries"] > len(PAUSES)
        SENT.labels("delivered" if taken else "given_up" if over else "failed").inc()
        state = "delivered" if taken else "given_up" if over else "waiting"
        pause = 0 if taken or over else PAUSES[row["webhook_tries"] - 1]
        query = "update jobs set webhook_state = %s, webhook_at = now() + make_interval(secs => %s) where id = %s"
        async with self._pool.connection() as connection:
            await connection.execute(query, (state, pause, row["id"]))

    async def _send(self, http: aiohttp.ClientSession, row: Mapping[str, Any]) -> bool:
        """Whether it was taken: a 2xx. A redirect is not followed, and what is answered is not read."""
        body = event(row)
        headers = {"content-type": "application/json", **self._signed(row, body)}
        try:
            url = URL(row["webhook"])
            async with http.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            log.info("webhook not taken", extra={"job": row["id"], "reason": type(exc).__name__})
            return False

    def _signed(self, row: Mapping[str, Any], body: bytes) -> dict[str, str]:
        message_id, at = f"msg_{row['id'].removeprefix('job_')}", str(int(time.time()))
        signed = f"{message_id}.{at}.".encode() + body
        digest = base64.b64encode(hmac.digest(self._key(row["tenant"]), signed, hashlib.sha256)).decode()
        return {"webhook-id": message_id, "webhook-timestamp": at, "webhook-signature": f"v1,{digest}"}


def event(row: Mapping[str, Any]) -> bytes:
    """The body: the job without its result, which is fetched with the key."""
    job = store.shown(row)
    return msgspec.json.encode({"type": f"job.{row['state']}", "timestamp": job["ended_at"], "data": job})
