"""What an address to listen on means, in every spelling that the system takes: 0, 0x0, ::0, *."""

from __future__ import annotations

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. Names other than localhost count as reachable."""
    address = _number(host)
    return host == "localhost" if address is None else address.is_loopback


def is_every_interface(host: str) -> bool:
    """Whether whoever reaches any interface of this machine reaches what listens there."""
    address = _number(host)
    return host == "" if address is None else address.is_unspecified


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a number is; None for a name."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), 0, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE)
    except (OSError, UnicodeError, ValueError):
        return None
    address = ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
