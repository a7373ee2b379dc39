"""What an IP address is: of the open internet, or one that no server of anybody's has. Pure.

An IPv6 address may stand for an IPv4 one, and is then judged as that: there are seven ways to write it, and each leads
to that address where a router or a tunnel unwraps it.
"""

import ipaddress
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_TEREDO = ipaddress.IPv6Network("2001::/32")
_LAST_32_BITS = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "::/96",  # IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64
    )
)
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""Bits 64 to 95 of an address whose last 32 bits are an IPv4 one."""
_OF_CLOUDS = frozenset(
    map(
        ipaddress.ip_address,
        ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    )
)
"""Where clouds tell a machine its own secrets."""
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "5f00::/16")))
"""What the registries of special addresses hold, and Python takes for public."""


def parsed(address: str) -> Address:
    """Without its zone. Raises ValueError."""
    return ipaddress.ip_address(address.partition("%")[0].strip("[]"))


def is_public(address: str) -> bool:
    """Whether it belongs to the internet at large, and so does every IPv4 address that it stands for."""
    found = parsed(address)
    inner: list[Address] = list(_unwrapped(found))
    if not inner or _is_isatap(found):
        inner.append(found)
    return all(_is_public(one) for one in inner)


def may_serve(address: str) -> bool:
    """Whether a server that an operator names may have it: private ones, too, but none that is only a machine's own
    cloud's, link-local, or a group's."""
    found = parsed(address)
    return not any(one.is_link_local or one.is_multicast or one in _OF_CLOUDS for one in (found, *_unwrapped(found)))


def _is_public(address: Address) -> bool:
    usual = address.version == 4 or address in _GLOBAL_UNICAST
    special = address.is_multicast or address.is_reserved or address in _OF_CLOUDS
    special = special or any(address in block for block in _SPECIAL)
    return usual and address.is_global and not special


def _is_isatap(address: Address) -> bool:
    return address.version == 6 and (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP


def _unwrapped(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that it stands for; none of the usual ones."""
    if isinstance(address, ipaddress.IPv4Address) or int(address) <= 1:  # `::` and `::1` are their own
        return
    last = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if any(address in block for block in _LAST_32_BITS) or _is_isatap(address):
        yield last
    if address.sixtofour is not None:
        yield address.sixtofour
    if address in _TEREDO and address.teredo is not None:
        yield from address.teredo
