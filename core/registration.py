"""A worker's side of registration: announce at start and by heartbeat, for ever, with backoff when nobody answers."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import aiohttp

from core import untrusted
from core.errors import SoundstageError
from core.settings import WorkerSettings
from core.wire.workers import Announcement, Lease

log = logging.getLogger(__name__)

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 15.0
TIMEOUT = aiohttp.ClientTimeout(total=5)
MOST_BYTES = 64 << 10  # of an answer
FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError, SoundstageError)


class Heartbeat:
    """Tells one address the same again and again. `send` returns the seconds until the next time."""

    def __init__(self, to: str, send: Callable[[], Awaitable[float]], first_backoff: float, max_backoff: float) -> None:
        """Of the backoff, which doubles: seconds."""
        self._to, self._send = to, send
        self._first_backoff, self._max_backoff = first_backoff, max_backoff
        self._changed = asyncio.Event()
        self.registered = False

    def changed(self) -> None:
        """Tell it again now."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        backoff, longest = self._first_backoff, self._max_backoff
        while True:
            self._changed.clear()
            try:
                wait = await self._send()
            except FAILURES as exc:
                if self.registered or backoff == self._first_backoff:
                    log.warning("not registered", extra={"to": self._to, "reason": exc})
                self.registered = False
                wait = backoff * random.uniform(0.8, 1.2)
                backoff = min(backoff * 2, longest)
            else:
                if not self.registered:
                    log.info("registered", extra={"to": self._to})
                self.registered, backoff = True, self._first_backoff
                longest = min(self._max_backoff, wait)  # no rarer than heartbeats: what was known is known again soon
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass


async def post(session: aiohttp.ClientSession, url: str, body: str) -> str:
    """The answer's text. Raises one of FAILURES."""
    async with session.post(url, data=body, headers={"content-type": "application/json"}) as response:
        text = (await untrusted.read_bytes(response, MOST_BYTES)).decode("utf-8", "replace")
        if response.status // 100 != 2:
            raise ValueError(f"{response.status}: {text[:200]}")
        return text


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
        self._heartbeat = Heartbeat(self._url, self._send, first_backoff, max_backoff)
        self.changed = self._heartbeat.changed

    @property
    def registered(self) -> bool:
        return self._heartbeat.registered

    async def run(self) -> None:
        """Until cancelled; then one farewell, so that no new request is routed here."""
        async with untrusted.session(timeout=TIMEOUT, headers=self._headers) as self._session:
            try:
                await self._heartbeat.run()
            finally:
                await asyncio.shield(self._leave())

    async def _send(self) -> float:
        text = await post(self._session, self._url, self._announce().model_dump_json())
        return Lease.model_validate_json(text).heartbeat_seconds

    async def _leave(self) -> None:
        if not self.registered:
            return
        try:
            async with self._session.delete(f"{self._url}/{self._announce().id}"):
                self._heartbeat.registered = False
        except FAILURES:
            log.info("could not say goodbye; the lease will run out")


def registrar_of(settings: WorkerSettings, announce: Callable[[], Announcement]) -> Registrar | None:
    """None where a worker serves alone."""
    if not settings.orchestrator_url:
        return None
    return Registrar(settings.orchestrator_url, settings.worker_key or "", announce)
