"""What another server answers, read within bounds: at most so many bytes, JSON in UTF-8, one error of ours.

Whoever answers may be broken or hostile: a header that names a codec that decodes no text, a body without an end, JSON
of another shape. All of it is Upstream, a failure of who answered; the caller decides what that costs them.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar, overload

import aiohttp
import msgspec

from core.errors import Upstream

T = TypeVar("T")

MOST_BYTES = 4 << 20
MOST_SECONDS = 3600.0
MAX_COUNT = 2**31 - 1
"""Of what another server counts: tokens, steps. The database's own integers hold no more."""
UNCOMPRESSED = {"accept-encoding": "identity"}
"""What is not compressed cannot unfold to a thousand times its size."""

_SECONDS = re.compile(r"[0-9]{1,9}").fullmatch


def session(*, timeout: aiohttp.ClientTimeout, headers: Mapping[str, str] | None = None) -> aiohttp.ClientSession:
    """For servers whose answers are read with `read_json` or `read_bytes`: no compression, cookies or proxies."""
    return aiohttp.ClientSession(
        timeout=timeout,
        headers={**UNCOMPRESSED, **(headers or {})},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


async def read_bytes(answer: aiohttp.ClientResponse, most: int = MOST_BYTES) -> bytes:
    """The whole body. Raises Upstream where it is longer than `most` bytes or breaks off; TimeoutError."""
    found = bytearray()
    try:
        async for chunk in answer.content.iter_any():
            found += chunk
            if len(found) > most:
                raise Upstream(f"The answer is longer than {most} bytes.", code="bad_upstream_answer")
    except aiohttp.ClientError as exc:
        raise Upstream("The answer broke off.", code="bad_upstream_answer") from exc
    return bytes(found)


async def read_json(answer: aiohttp.ClientResponse, kind: Any = Any, most: int = MOST_BYTES) -> Any:
    """The whole body as JSON of the shape `kind`, whatever its headers say of it. Raises Upstream, TimeoutError."""
    return decoded(await read_bytes(answer, most), kind)


@overload
def decoded(body: bytes | memoryview, kind: type[T]) -> T: ...
@overload
def decoded(body: bytes | memoryview, kind: Any = Any) -> Any: ...
def decoded(body: bytes | memoryview, kind: Any = Any) -> Any:
    """A body as JSON of the shape `kind`. Raises Upstream."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as exc:  # msgspec's own, and a codec's, are ValueErrors
        raise Upstream("The answer could not be read.", code="bad_upstream_answer") from exc


def seconds_to_wait(retry_after: str, otherwise: float = 2.0) -> float:
    """What a Retry-After header says, within reason; dates are not read."""
    return min(float(retry_after), MOST_SECONDS) if _SECONDS(retry_after) else otherwise


def storable_json(body: bytes) -> None:
    """Raises Upstream where a text in this JSON, or a name, holds what the database cannot keep."""
    if b"\\u0000" not in body:  # else it may be a backslash and five characters
        return
    waiting = [decoded(body)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "\0" in value:
                raise Upstream("The answer holds a NUL character.", code="bad_upstream_answer")
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def storable(text: str) -> str:
    """A model's text as the database can hold it: a model may write NUL, and Postgres keeps none."""
    return text.replace("\0", "")
