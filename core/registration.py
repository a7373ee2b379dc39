"""A worker's side of registration: announce at start and by heartbeat, for ever, with backoff when nobody answers."""

import asyncio
import logging
import random
from collections.abc import Callable

import aiohttp

from core import untrusted
from core.errors import SoundstageError
from core.wire.workers import Announcement, Lease

log = logging.getLogger(__name__)

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 15.0
TIMEOUT = aiohttp.ClientTimeout(total=5)
MOST_BYTES = 64 << 10  # of an orchestrator's answer


class Registrar:
    """Keeps one announcement alive at one orchestrator. `announce` is asked anew each time: state may change."""

    def __init__(
        self,
        orchestrator_url: str,
        key: str,
        announce: Callable[[], Announcement],
        *,
        first_backoff: float = FIRST_BACKOFF,
        max_backoff: float = MAX_BACKOFF,
    ) -> None:
        self._url = orchestrator_url.rstrip("/") + "/v1/workers"
        self._headers = {"authorization": f"Bearer {key}"}
        self._announce = announce
        self._first_backoff, self._max_backoff = first_backoff, max_backoff  # seconds
        self._changed = asyncio.Event()
        self.registered = False

    def changed(self) -> None:
        """Announce again now: readiness or models have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled; then one farewell, so that no new request is routed here."""
        async with untrusted.session(timeout=TIMEOUT, headers=self._headers) as session:
            try:
                await self._beat(session)
            finally:
                await asyncio.shield(self._leave(session))

    async def _beat(self, session: aiohttp.ClientSession) -> None:
        backoff, longest = self._first_backoff, self._max_backoff
        while True:
            self._changed.clear()
            try:
                lease = await self._send(session)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, SoundstageError) as exc:
                if self.registered or backoff == self._first_backoff:
                    log.warning("not registered", extra={"orchestrator": self._url, "reason": exc})
                self.registered = False
                wait = backoff * random.uniform(0.8, 1.2)
                backoff = min(backoff * 2, longest)
            else:
                if not self.registered:
                    log.info("registered", extra={"orchestrator": self._url})
                self.registered = True
                wait, backoff = lease.heartbeat_seconds, self._first_backoff
                longest = min(self._max_backoff, wait)  # no rarer than heartbeats: what was known is known again soon
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _send(self, session: aiohttp.ClientSession) -> Lease:
        body = self._announce().model_dump_json()
        async with session.post(self._url, data=body, headers={"content-type": "application/json"}) as response:
            text = (await untrusted.read_bytes(response, MOST_BYTES)).decode("utf-8", "replace")
            if response.status != 200:
                raise ValueError(f"{response.status}: {text[:200]}")
            return Lease.model_validate_json(text)

    async def _leave(self, session: aiohttp.ClientSession) -> None:
        if not self.registered:
            return
        try:
            async with session.delete(f"{self._url}/{self._announce().id}"):
                self.registered = False
        except (aiohttp.ClientError, OSError, TimeoutError):
            log.info("could not say goodbye; the lease will run out")
