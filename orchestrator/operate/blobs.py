"""Pictures that pipelines made: kept by what they are, for a stated time, and handed out by signed links.

A blob's name is the SHA-256 of its bytes, so what is made twice is kept once and what was changed shows. The store is a
directory, or a bucket of whatever speaks S3 (Supabase Storage does).
"""

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, TypeGuard
from urllib.parse import urlencode, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store
from prometheus_client import Gauge

from core.errors import Forbidden, NotFound, PayloadTooLarge, Unavailable, Upstream
from core.keys import read_or_make
from core.metrics import same_everywhere
from core.repeat import every
from orchestrator.settings import OrchestratorSettings

log = logging.getLogger(__name__)

PATH = "/v1/blobs/"
MAX_BYTES = 64 << 20  # of one blob
PURGE_SECONDS = 600.0
TYPES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
SUFFIXES = {suffix: media_type for media_type, suffix in TYPES.items()}
KEPT = same_everywhere(Gauge("soundstage_blob_bytes", "Bytes in the blob store, as last counted and put since."))
_NAME = re.compile(r"([0-9a-f]{64})\.(png|jpg|webp)")


class Reference(TypedDict):
    """What stands for a blob wherever it is not wanted itself: in a step's result, an event, a job."""

    blob: str
    type: str
    bytes: int


@dataclass(frozen=True)
class Retention:
    """For how long blobs are kept and links to them work, in seconds; how many bytes at most."""

    seconds: float
    link_seconds: float
    most_bytes: int


class Blobs:
    """Blobs in an object store. `now` is the clock that the store's times are compared with."""

    def __init__(
        self,
        store: ObjectStore,
        key: bytes,
        retention: Retention,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._key, self._retention, self._now = store, key, retention, now
        self._bytes: int | None = None  # in the store, as far as is known here
        self._purging = asyncio.Lock()

    async def put(self, data: bytes, media_type: str) -> Reference:
        """Keep it from now on for the whole time, whether it is new or not. Either all of it is there or nothing.
        Raises PayloadTooLarge, and Unavailable where the store does not answer."""
        if len(data) > MAX_BYTES:
            raise PayloadTooLarge(f"A picture of more than {MAX_BYTES} bytes is not kept.", code="blob_too_large")
        made = Reference(blob=hashlib.sha256(data).hexdigest(), type=media_type, bytes=len(data))
        if self._bytes is None or self._bytes + len(data) > self._retention.most_bytes:
            await self.purge_once(room=len(data))
        with _our_errors():
            await obstore.put_async(self._store, name_of(made), data)
        self._count((self._bytes or 0) + len(data))
        return made

    async def get(self, reference: Reference) -> bytes:
        """Raises NotFound where its time is over, Unavailable where the store does not answer, Upstream where what it
        gives is something else."""
        return await self._read(name_of(reference))

    def url(self, reference: Reference, base: str) -> str:
        """A link below `base` that works without a key, for a while."""
        name = name_of(reference)
        expires = int(self._now().timestamp() + self._retention.link_seconds)
        query = urlencode({"expires": expires, "signature": self._sign(name, expires)})
        return f"{base.rstrip('/')}{PATH}{name}?{query}"

    async def from_link(self, name: str, expires: str, signature: str) -> tuple[bytes, str]:
        """The bytes and the media type behind a link. Raises Forbidden for one that was not given out or is over."""
        found = _NAME.fullmatch(name)
        good = found is not None and expires.isascii() and expires.isdigit() and len(expires) < 16
        if not good or not hmac.compare_digest(signature.encode(), self._sign(name, int(expires)).encode()):
            raise Forbidden("The link's signature is wrong.", param="signature", code="invalid_signature")
        if int(expires) <= self._now().timestamp():
            raise Forbidden("The link has expired.", param="expires", code="link_expired")
        return await self._read(name), SUFFIXES[name.rpartition(".")[2]]

    async def purge(self) -> None:
        """Let go of what is past its time, now and then, until cancelled."""
        await every(PURGE_SECONDS, self.purge_once, failing="blobs are not purged", away=(Unavailable,))

    async def purge_once(self, room: int = 0) -> int:
        """How many were let go: those past their time, then the oldest, until `room` more bytes fit."""
        async with self._purging:
            with _our_errors():
                found = [one async for page in obstore.list(self._store, chunk_size=1000) for one in page]
                kept = sorted((one for one in found if _NAME.search(one["path"])), key=lambda one: one["last_modified"])
                total, gone = sum(one["size"] for one in kept), []
                oldest = self._now() - timedelta(seconds=self._retention.seconds)
                for one in kept:
                    if one["last_modified"] >= oldest and total + room <= self._retention.most_bytes:
                        break
                    gone.append(one["path"])
                    total -= one["size"]
                with suppress(FileNotFoundError):  # another process was first; what is left goes the next time
                    await obstore.delete_async(self._store, gone)
            self._count(total)
            return len(gone)

    async def _read(self, name: str) -> bytes:
        with _our_errors():
            found = await obstore.get_async(self._store, name)
            data = bytes(await found.bytes_async())
        if hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
            raise Upstream("The blob store gave something else than was put in.", code="blob_changed")
        return data

    def _sign(self, name: str, expires: int) -> str:
        return hmac.new(self._key, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()

    def _count(self, total: int) -> None:
        self._bytes = total
        KEPT.set(total)


def blobs_of(settings: OrchestratorSettings) -> Blobs:
    """As configured: the bucket that BLOB_URL names, else a folder of the data directory."""
    key = read_or_make(settings.data_dir.resolve() / "keys" / "blob_links").encode()
    lifetime = settings.blob_hours * 3600
    retention = Retention(lifetime, min(settings.blob_link_seconds, lifetime), settings.blob_max_mb << 20)
    return Blobs(_store(settings), key, retention)


def _store(settings: OrchestratorSettings) -> ObjectStore:
    if settings.blob_url is None:
        folder = settings.data_dir.resolve() / "blobs" / "pipelines"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return LocalStore(folder)
    bucket = urlsplit(settings.blob_url)
    config: Any = {
        "endpoint": settings.blob_endpoint,
        "region": settings.blob_region,
        "access_key_id": settings.blob_access_key_id,
        "secret_access_key": settings.blob_secret_access_key and settings.blob_secret_access_key.get_secret_value(),
    }
    plain = (settings.blob_endpoint or "").startswith("http://")
    return S3Store(
        bucket.netloc,
        prefix=bucket.path.strip("/") or None,
        client_options={"allow_http": plain, "timeout": "30s"},
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=30)},
        **{name: value for name, value in config.items() if value},
    )


def is_reference(value: object) -> TypeGuard[Reference]:
    return isinstance(value, dict) and set(value) == {"blob", "type", "bytes"}


def name_of(reference: Reference) -> str:
    """The name in the store and in links. Raises NotFound for what `put` never gave."""
    name = f"{reference['blob']}.{TYPES.get(reference['type'], '')}"
    if not _NAME.fullmatch(name):
        raise NotFound("There is no such blob.", code="blob_not_found")
    return name


@contextmanager
def _our_errors() -> Iterator[None]:
    """What the store raises, as ours."""
    try:
        yield
    except FileNotFoundError as exc:
        raise NotFound("The picture is not kept any more.", code="blob_not_found") from exc
    except (BaseError, OSError) as exc:
        log.warning("the blob store failed", extra={"reason": str(exc)[:500]})
        raise Unavailable("The blob store does not answer.", code="blobs_unavailable", retry_after=5) from exc
