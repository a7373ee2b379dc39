"""Addresses that a caller or an operator names: which may be asked, judged for each that a name has, and on connect."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from core import egress
from core.addresses import is_public, may_serve
from core.http.connections import Connections

PUBLIC = (
    *("93.184.216.34", "8.8.8.8", "1.1.1.1", "192.88.98.1", "100.128.0.1", "172.32.0.1"),
    *("2606:2800:220:1:248:1893:25c8:1946", "2606:4700:4700::1111", "[2606:4700:4700::1111]", "2a00:1450::5efe:1"),
    *("::ffff:93.184.216.34", "64:ff9b::808:808", "2002:808:808::1", "::8.8.8.8", "::ffff:0:8.8.8.8"),
)
PRIVATE = (
    *("127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "100.100.100.200", "168.63.129.16", "0.0.0.0", "0.1.2.3", "255.255.255.255", "240.0.0.1"),
    *("224.0.0.1", "239.255.255.250", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.0.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00::1", "fd00:ec2::254", "ff02::1"),
    *("192.0.0.192", "192.88.99.1", "3fff::1", "fd20:ce::254", "::ffff:192.0.0.192"),
    *("2001:db8::1", "100::1", "5f00::1", "64:ff9b:1::8.8.8.8", "4000::1"),
    # An IPv4 address in an IPv6 one: mapped, compatible, translated, 6to4, NAT64, Teredo, ISATAP.
    *("::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "[::ffff:127.0.0.1]"),
    *("::127.0.0.1", "::7f00:1", "::10.0.0.1", "::169.254.169.254", "::2"),
    *("::ffff:0:127.0.0.1", "::ffff:0:10.0.0.1"),
    *("2002:7f00:1::", "2002:a00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:101::1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::169.254.169.254", "64:ff9b::0"),
    *("2001:0:7f00:1::f7f7:f7f7", "2001:0:808:808::80ff:fffe", "2001:0:a00:1::f5ff:fffe"),
    *("2a00:1450::5efe:7f00:1", "2a00:1450::200:5efe:a00:1", "fe80::5efe:808:808", "fe80::200:5efe:8.8.8.8"),
)
SERVES = ("127.0.0.1", "10.1.2.3", "192.168.1.1", "100.64.0.1", "::1", "fd00::1", "8.8.8.8", "::ffff:10.0.0.1")
SERVES_NOT = (
    *("169.254.169.254", "169.254.1.1", "fe80::1", "fe80::1%eth0", "224.0.0.1", "ff02::1", "168.63.129.16"),
    *("::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "fd00:ec2::254"),
    *("192.0.0.192", "fd20:ce::254", "100.100.100.200"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_of_the_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", SERVES)
def test_an_operators_server_may_have_a_private_address(address: str) -> None:
    assert may_serve(address)


@pytest.mark.parametrize("address", SERVES_NOT)
def test_and_none_that_is_a_clouds_or_link_local(address: str) -> None:
    assert not may_serve(address)


@pytest.fixture
async def page() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on loopback, and what it was sent."""
    received: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], received


TIMEOUT = aiohttp.ClientTimeout(total=10)
HOSTS = ("127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "[::1]", "[::127.0.0.1]")


@pytest.mark.parametrize("host", HOSTS)
async def test_a_private_address_is_not_connected_to_however_it_is_written(
    host: str, page: tuple[int, list[bytes]]
) -> None:
    port, received = page
    async with egress.session(is_public, timeout=TIMEOUT) as session:
        with pytest.raises((aiohttp.ClientConnectorError, aiohttp.InvalidURL)):
            await session.get(f"http://{host}:{port}/")
    assert received == []
    async with egress.session(lambda _: True, timeout=TIMEOUT) as session:  # that the page would have answered
        assert (await session.get(f"http://127.0.0.1:{port}/")).status == 204


async def test_one_private_address_among_others_is_too_many() -> None:
    """`localhost` stands for any name of several addresses."""
    seen: list[str] = []

    def not_the_last(address: str) -> bool:
        seen.append(address)
        return len(seen) < count

    count = len(await egress.JudgingResolver(lambda _: True).resolve("localhost", 80))
    with pytest.raises(egress.ForbiddenAddressError):
        await egress.JudgingResolver(not_the_last).resolve("localhost", 80)
    assert len(seen) == count


async def test_a_name_that_changes_its_mind_is_judged_on_connect(page: tuple[int, list[bytes]]) -> None:
    """DNS that says a public address to who looks and a private one to who connects: the socket's own is judged."""
    port, received = page

    class Rebinding(egress.JudgingResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
            return await egress.JudgingResolver(lambda _: True).resolve("127.0.0.1", port)

    connector = aiohttp.TCPConnector(resolver=Rebinding(), socket_factory=egress.judging_sockets(is_public))
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://rebinds.example:{port}/")
    assert received == []


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]"])
async def test_no_connection_of_the_relay_goes_to_a_clouds_own_address(host: str) -> None:
    connections = Connections(5.0)
    try:
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await connections.session.get(f"http://{host}:1/")
    finally:
        await connections.close()
    assert isinstance(refused.value.os_error, egress.ForbiddenAddressError)
