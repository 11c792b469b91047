"""Where a CONNECT wants to go: ``host:port``, as real clients write it.

An IPv6 address stands in brackets or, from a ``.vv`` file, without them; so the last colon is the one
before the port. A host of several words between colons, which clients put into lower case, is no name: one
of the words is a ticket.
Source: RFC 9110, section 9.3.6; RFC 9112, section 3.2.3; spice-gtk 0.42 and GLib 2.74.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from attrs import field, frozen

from gateway import errors

#: Characters of a name, and of a host that is words between colons.
LONGEST_NAME = 253
LONGEST_WORDS = 1000

_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[A-Za-z0-9.-]+")
_WORDS = re.compile(r"[A-Za-z0-9._~-]*(?::[A-Za-z0-9._~-]*)+")


@frozen
class Authority:
    """A host and a port.

    :ivar host: a name in lower case, or an address in its shortest form, without brackets; empty for words.
    :ivar words: what a host that is no name consists of, in lower case.
    """

    host: str
    port: int
    words: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host or 'ticket'}:{self.port}"


def parse_authority(target: bytes) -> Authority:
    """Read the target of a CONNECT.

    :raises BadRequest: it is none: user-info, a zone, percent signs, no port, or a port that is no port.
    """
    host, colon, digits = target.decode("latin-1").rpartition(":")
    port = int(digits) if _PORT.fullmatch(digits) else 0
    if not colon or not 1 <= port <= 65535:
        raise errors.BadRequest("The target needs a port from 1 to 65535", reason="authority")
    if host.startswith("[") and host.endswith("]") and (address := _address(host[1:-1])) and ":" in address:
        return Authority(address, port)
    if (address := _address(host)) is not None:
        return Authority(address, port)
    if len(host) <= LONGEST_NAME and _NAME.fullmatch(host):
        return Authority(host.lower(), port)
    words = tuple(filter(None, host.lower().split(":")))
    if words and len(host) <= LONGEST_WORDS and _WORDS.fullmatch(host):
        return Authority("", port, words)
    raise errors.BadRequest("The target is neither a name nor an address", reason="authority")


def _address(text: str) -> str | None:
    """An address in its shortest form; one with a zone is none."""
    try:
        return str(IPv6Address(text) if ":" in text and "%" not in text else IPv4Address(text))
    except ValueError:
        return None
