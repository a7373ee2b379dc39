"""Redis commands over its own protocol (plain or TLS), or over Upstash's REST form: one call either way."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

import aiohttp
import redis.asyncio
import redis.exceptions

from core import untrusted
from core.errors import Upstream

SECONDS = 15.0
MOST_BYTES = 64 << 20  # of one reply: as many jobs as run at once, of 1 MiB each
_GARBLED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, AssertionError)
"""What the client raises of a reply that is not what its command has."""


class QueueAwayError(RuntimeError):
    """The queue did not answer, or refused."""


class Commands(Protocol):
    async def run(self, *command: str | int | float) -> Any:
        """The command's reply; texts as str. Raises QueueAwayError."""


class _Redis:
    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client

    async def run(self, *command: str | int | float) -> Any:
        try:
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except (redis.exceptions.RedisError, OSError, TimeoutError, *_GARBLED) as exc:
            raise QueueAwayError(str(exc)[:300] or repr(exc)[:300]) from exc


class _Upstash:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def run(self, *command: str | int | float) -> Any:
        try:
            async with self._session.post(self._url, json=[str(word) for word in command]) as response:
                answer = await untrusted.read_json(response, dict[str, Any], MOST_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError, Upstream) as exc:
            raise QueueAwayError(str(exc)) from exc
        if "result" not in answer:
            raise QueueAwayError(str(answer.get("error") or f"status {response.status}")[:300])
        return answer["result"]


@contextlib.asynccontextmanager
async def over_redis(url: str) -> AsyncIterator[Commands]:
    """redis:// and rediss://. A connection that broke is made anew by the next command."""
    client = redis.asyncio.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="surrogateescape",  # bytes that are no text are no job: they are buried as they came
        protocol=2,
        socket_timeout=SECONDS,
        socket_connect_timeout=5,
    )
    try:
        yield _Redis(client)
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def over_upstash(url: str, token: str) -> AsyncIterator[Commands]:
    headers = {"authorization": f"Bearer {token}"}
    async with untrusted.session(headers=headers, timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        yield _Upstash(session, url.rstrip("/"))
