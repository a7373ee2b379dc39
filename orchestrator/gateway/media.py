"""Pictures that a message names by address: `data:` always; http(s) only from domains that the operator allows: then
it is the orchestrator that fetches them, so that no engine ever follows an address that a caller chose.

A private address is never asked, whatever name or redirect leads there: each is resolved here, and the connection goes
to the very address that was checked.
"""

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from core import egress
from core.addresses import is_public
from core.errors import InvalidRequest, Unavailable
from core.json.size import aside
from core.json.text import NOT_JSON, too_deep

KEYS = frozenset(("image_url", "video_url", "audio_url", "file_url"))
REFUSED = frozenset(("chat_template", "chat_template_kwargs"))
"""They would change what the model sees of the messages: an admin's only, however deep they are nested."""
MAX_BYTES = 16 * 1024 * 1024
MAX_ADDRESSES = 16
MAX_REDIRECTS = 3
TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)
_TYPES = ("image/", "video/", "audio/")


class Media:
    """Looks at the addresses in a body. `domains`: whose pictures may be fetched, with those below them."""

    def __init__(self, domains: Sequence[str], allowed: egress.Allowed = is_public) -> None:
        self._domains = tuple(domain.lower().strip(".") for domain in domains)
        self._allowed = allowed

    async def settled(self, body: bytes, *, admin: bool, heavy: bool = False) -> bytes:
        """The body as it may go on: the same bytes, or with what was fetched in the place of its address.

        Raises InvalidRequest: an address that is not allowed, what is no picture, or a field that only an admin may
        send. Raises Unavailable where an allowed address does not answer. `heavy`: it is read off the loop.
        """
        whole, wanted = await aside(heavy, _looked_at, body, admin=admin)
        if not wanted:
            return body
        if len(wanted) > MAX_ADDRESSES:
            raise InvalidRequest(f"At most {MAX_ADDRESSES} addresses.", param="messages", code="too_many_urls")
        for holder, key, address in wanted:
            holder[key] = await self._fetched(self._url(address))
        return msgspec.json.encode(whole)

    def _url(self, address: str) -> URL:
        """Raises InvalidRequest where its domain is not allowed."""
        try:
            url = URL(address)
        except ValueError as exc:
            raise _refused("It is not a URL.") from exc
        host = (url.host or "").lower().rstrip(".")
        if url.scheme not in ("http", "https") or url.user or not host:
            raise _refused("Send the picture itself, as a data: URL.")
        if not any(host == domain or host.endswith("." + domain) for domain in self._domains):
            raise _refused("Its domain is not allowed here: send the picture itself, as a data: URL.")
        if egress.is_address(host) and not self._allowed(host):
            raise _refused("It is not a public address.")
        return url

    async def _fetched(self, url: URL) -> str:
        """As a data: URL. Redirects are followed by hand: each is checked like the first."""
        async with egress.session(self._allowed, timeout=TIMEOUT) as session:
            try:
                for _ in range(MAX_REDIRECTS + 1):
                    async with session.get(url, allow_redirects=False) as answer:
                        if answer.status in (301, 302, 303, 307, 308):
                            url = self._url(_next(url, answer.headers.get("location", "")))
                            continue
                        return await _read(answer)
            except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as exc:
                raise Unavailable("A picture could not be fetched.", code="media_unavailable", retry_after=2) from exc
        raise _refused("It redirects too often.")


def _next(url: URL, location: str) -> str:
    """Where a redirect leads. Raises InvalidRequest where that is nowhere."""
    try:
        return str(url.join(URL(location)))
    except ValueError as exc:
        raise _refused("It redirects to what is no URL.") from exc


async def _read(answer: aiohttp.ClientResponse) -> str:
    packed = answer.headers.get("content-encoding", "identity").lower() != "identity"
    if answer.status != 200 or packed or not answer.content_type.startswith(_TYPES):
        raise _refused("There is no picture.")
    content = await answer.content.read(MAX_BYTES + 1)
    while len(content) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES + 1 - len(content))):
        content += more
    if len(content) > MAX_BYTES:
        raise _refused(f"It is larger than {MAX_BYTES} bytes.")
    return f"data:{answer.content_type};base64,{base64.b64encode(content).decode()}"


def _looked_at(body: bytes, *, admin: bool) -> tuple[Any, list[tuple[dict[str, Any], str, str]]]:
    """The body as an object, and where an address stands in it that is to be fetched. Raises InvalidRequest."""
    if b"_url" not in body and b"chat_template" not in body and b"\\u00" not in body:
        return None, []  # the usual case; an escaped name is looked at, too
    whole = _decoded(body)
    if not isinstance(whole, dict):
        return whole, []
    if not admin and (refused := next(_named(whole, REFUSED), None)):
        raise InvalidRequest(f"`{refused[1]}` may not be sent.", param=refused[1], code="field_refused")
    return whole, [spot for spot in _addresses(whole) if spot[2][:5].lower() != "data:"]


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except NOT_JSON:
        return None  # a form: it holds no messages
    except RecursionError as exc:
        raise too_deep() from exc


def _addresses(whole: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """(what holds it, under which name, the address), wherever a message may name one, or an image's request."""
    holding = [whole.get("messages"), whole.get("input")]
    for holder, key in [*_named(holding, KEYS), *((whole, key) for key in KEYS & whole.keys())]:
        value = holder[key]
        if isinstance(value, str):
            yield holder, key, value
        elif isinstance(value, dict) and isinstance(value.get("url"), str):
            yield value, "url", value["url"]


def _named(whole: Any, names: frozenset[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every (object, key) of these names, at any depth; no recursion, so depth costs nothing."""
    waiting = [whole]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from ((value, key) for key in value if key in names)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"An address in the messages is refused. {why}", param="messages", code="media_url_refused")
