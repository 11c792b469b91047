"""Orders come from programs: no page in a browser on this host gives any, but for one of our own.

The control listener asks for no credential, so whoever reaches it is obeyed; a browser reaches loopback for
any page it shows. Such a request tells its ``Origin``, or was sent to a name that the owner of the page let
resolve to us.

The page for administrators is served by this listener itself. It may end sessions and revoke tickets by their
fingerprints, and nothing else: its origin is the very name or address that it was asked for by, and no
resolver had a say in that.
"""

from __future__ import annotations

import ipaddress
import re

from gateway import errors
from gateway.core.exchange import Exchange
from gateway.wire.http_head import RequestHead

#: What the page may ask for: its parts, for which browsers name its origin, the end of sessions and tickets.
_ASKS = re.compile(rb"GET /ui/[a-z.]+|DELETE /sessions/[0-9a-f]{1,32}|DELETE /fingerprints/[0-9a-f]{12}")


def refuse_pages(exchange: Exchange) -> None:
    """Let pass what a program sent.

    :raises gateway.errors.Forbidden: it comes from a page.
    :raises gateway.errors.Misdirected: it was sent to a name that is not that of this host itself.
    """
    head = exchange.head
    host, origin = head.get(b"host"), head.get(b"origin")
    if origin is not None and not _is_own(head, host or b"", origin):
        raise errors.Forbidden(reason="origin")
    if host is not None and exchange.peer != "local" and not _is_here(host.decode("latin-1")):
        raise errors.Misdirected


def _is_own(head: RequestHead, host: bytes, origin: bytes) -> bool:
    """Whether our own page asks, for what it may ask."""
    known = _ASKS.fullmatch(head.method + b" " + head.target) is not None
    alone = head.count(b"origin") == head.count(b"host") == 1
    return known and alone and origin == b"http://" + host and _is_here(host.decode("latin-1"))


def _is_here(host: str) -> bool:
    """Whether *host* is ``localhost`` or an address, with or without a port: no resolver had a say in it."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
