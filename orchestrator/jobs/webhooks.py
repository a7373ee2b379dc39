"""Webhooks: who asked for it is told when a background job has ended. Signed as standardwebhooks.com says, told again
with growing pauses until it is taken, and never sent to a private address.

What is still to be told stands in the jobs' own rows, so it outlives every process. It is told at least once: a
receiver knows a repeat by `webhook-id`.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from prometheus_client import Counter
from yarl import URL

from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from core.errors import InvalidRequest
from orchestrator.jobs import store

log = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

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


def is_public(address: Address) -> bool:
    """Whether it is an address of the open internet, also behind the ways to write an IPv4 address as IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


async def refuse_private(url: str | None, allowed: Callable[[Address], bool] = is_public) -> None:
    """Raises InvalidRequest for an address that would never be told: said at once, and checked again when it is."""
    if url is None:
        return
    try:
        parsed = URL(url)
        if parsed.scheme not in ("http", "https") or parsed.user or parsed.password or len(url) > LONGEST:
            raise ValueError(url)
        found = await Pinned(allowed).resolve(parsed.host or "", parsed.port or 443)
    except ValueError as exc:  # also a name that DNS has no form for: a part of it is empty, or too long
        raise InvalidRequest(
            "A webhook is an http(s) address without credentials.", param="webhook", code="bad_webhook"
        ) from exc
    except OSError:
        return  # it may have an address by then
    if not found:
        raise InvalidRequest("A webhook goes to public addresses only.", param="webhook", code="private_webhook")


class Pinned(AbstractResolver):
    """Resolves a name once and gives out only what is allowed: the address that was checked is connected to."""

    def __init__(self, allowed: Callable[[Address], bool] = is_public) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All of a name's addresses have to be allowed: one that is not is no mistake. Raises OSError for no name."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        addresses = [(family, info[0]) for family, _, _, _, info in found]
        if not all(self._allowed(ipaddress.ip_address(str(address).partition("%")[0])) for _, address in addresses):
            return []
        return [
            ResolveResult(
                hostname=host, host=str(address), port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
            for family, address in addresses
        ]

    async def close(self) -> None:
        pass


class Webhooks:
    """Tells who asked. Each tenant has a secret of its own, derived from the studio's."""

    def __init__(self, pool: Pool, secret: str, allowed: Callable[[Address], bool] = is_public) -> None:
        self._pool = pool
        self._master = secret.encode()
        self._allowed = allowed

    def secret(self, tenant: str) -> str:
        """What a tenant checks signatures with, as libraries of Standard Webhooks take it."""
        return "whsec_" + base64.b64encode(self._key(tenant)).decode()

    def _key(self, tenant: str) -> bytes:
        return hmac.digest(self._master, f"webhook:{tenant}".encode(), hashlib.sha256)

    async def run(self) -> None:
        """Until cancelled."""
        connector = aiohttp.TCPConnector(resolver=Pinned(self._allowed), use_dns_cache=False, limit=BATCH)
        options: Any = {"connector": connector, "timeout": TIMEOUT, "trust_env": False, "auto_decompress": False}
        async with aiohttp.ClientSession(**options) as http:
            while True:
                found = 0
                try:
                    found = await self.once(http)
                except DATABASE_AWAY as exc:
                    log.warning("webhooks wait for the database", extra={"reason": str(exc)})
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
        body = told(row)
        headers = {"content-type": "application/json", **self._signed(row, body)}
        try:
            url = URL(row["webhook"])
            if not self._allowed_literal(url.host or ""):
                return False  # aiohttp resolves no literal address
            async with http.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            log.info("webhook not taken", extra={"job": row["id"], "reason": type(exc).__name__})
            return False

    def _allowed_literal(self, host: str) -> bool:
        try:
            return self._allowed(ipaddress.ip_address(host))
        except ValueError:
            return True  # a name: it is judged when it is resolved

    def _signed(self, row: Mapping[str, Any], body: bytes) -> dict[str, str]:
        message_id, at = f"msg_{row['id'].removeprefix('job_')}", str(int(time.time()))
        signed = f"{message_id}.{at}.".encode() + body
        digest = base64.b64encode(hmac.digest(self._key(row["tenant"]), signed, hashlib.sha256)).decode()
        return {"webhook-id": message_id, "webhook-timestamp": at, "webhook-signature": f"v1,{digest}"}


def told(row: Mapping[str, Any]) -> bytes:
    """The body: the job without its result, which is fetched with the key."""
    job = store.shown(row)
    return msgspec.json.encode({"type": f"job.{row['state']}", "timestamp": job["ended_at"], "data": job})
