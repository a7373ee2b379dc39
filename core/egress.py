"""The one guard of every address that a caller or an operator can name: pictures, webhooks, servers.

Each address that a name resolves to is judged, and again on connect: what is connected to is what was judged, however
the name answers the next time.
"""

import asyncio
import functools
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from core.addresses import is_public, parsed
from core.untrusted import UNCOMPRESSED

Allowed = Callable[[str], bool]


class ForbiddenAddressError(OSError):
    """It leads where it may not."""


class JudgingResolver(AbstractResolver):
    """Names to addresses. All of a name's addresses have to be allowed: one that is not is no mistake."""

    def __init__(self, allowed: Allowed = is_public) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises ForbiddenAddressError, OSError for no name, ValueError for what can be none."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        for *_, address in found:
            judge(str(address[0]), self._allowed)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST
            )
            for kind, _, _, _, address in found
        ]

    async def close(self) -> None:
        pass


def judge(address: str, allowed: Allowed) -> None:
    """Raises ForbiddenAddressError."""
    if not allowed(address):
        raise ForbiddenAddressError("this address may not be asked")


def is_address(host: str) -> bool:
    """Whether a host is an address, not a name."""
    try:
        parsed(host)
    except ValueError:
        return False
    return True


def judging_sockets(allowed: Allowed) -> Callable[[Any], socket.socket]:
    """For aiohttp's connector: makes the socket of a connection whose address is allowed. It sees addresses that were
    written as such, too, which no resolver does."""
    return functools.partial(_socket, allowed)


def _socket(allowed: Allowed, info: Any) -> socket.socket:
    family, kind, protocol, _, address = info
    judge(str(address[0]), allowed)
    return socket.socket(family=family, type=kind, proto=protocol)


def session(allowed: Allowed, *, timeout: aiohttp.ClientTimeout, limit: int = 16) -> aiohttp.ClientSession:
    """For addresses that others choose: no proxies, cookies or compression, and nothing that is not allowed. Whoever
    asks follows no redirect, or judges where it leads."""
    connector = aiohttp.TCPConnector(
        resolver=JudgingResolver(allowed),
        socket_factory=judging_sockets(allowed),
        use_dns_cache=False,
        force_close=True,
        limit=limit,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=UNCOMPRESSED,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )
