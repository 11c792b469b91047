"""Orders come from programs: no page in a browser on this host gives any.

The control listener asks for no credential, so whoever reaches it is obeyed; a browser reaches loopback for
any page it shows. Such a request tells its ``Origin``, or was sent to a name that the owner of the page let
resolve to us.
"""

from __future__ import annotations

import ipaddress

from gateway import errors
from gateway.core.exchange import Exchange


def refuse_pages(exchange: Exchange) -> None:
    """Let pass what a program sent.

    :raises gateway.errors.Forbidden: it comes from a page.
    :raises gateway.errors.Misdirected: it was sent to a name that is not that of this host itself.
    """
    if exchange.head.get(b"origin") is not None:
        raise errors.Forbidden(reason="origin")
    host = exchange.head.get(b"host")
    if host is not None and exchange.peer != "local" and not _is_here(host.decode("latin-1")):
        raise errors.Misdirected


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
