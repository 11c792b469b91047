"""TLS to a host that the user of a program has named: no policy stands between them."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from gateway import errors
from gateway.core.dial import Dialer
from gateway.core.policy import BUILTIN, Policy, Rule
from gateway.core.tls_client import Strict

#: Where users may send their own programs.
_ANYWHERE = Policy([Rule(), *BUILTIN])


async def connect(
    reactor: Any, host: str, port: int, creator: Strict, factory: IProtocolFactory, timeout: float = 10.0
) -> None:
    """Connect a protocol of *factory*, once the host has proved itself.

    :param timeout: seconds for TCP and TLS together.
    :raises gateway.errors.UpstreamFailed: it is out of reach (``reason`` is ``dns``, ``refused`` or
        ``unreachable``), or cannot prove itself (``tls``).
    :raises gateway.errors.UpstreamTimeout: it does not answer; ``reason`` is ``connect``.
    """
    dialer = Dialer(reactor, _ANYWHERE, connect_timeout=timeout)
    try:
        await dialer.connect("https", host, port, factory, tls=creator)
    except errors.UpstreamTimeout as error:
        raise errors.UpstreamTimeout("The gateway does not answer", reason=error.reason) from error
    except errors.UpstreamFailed as error:
        proof = error.reason == "tls"
        text = "The gateway cannot prove itself" if proof else "The gateway is out of reach"
        raise errors.UpstreamFailed(text, reason=error.reason) from error
    except errors.Forbidden as error:
        raise errors.UpstreamFailed("This is no name of a host", reason="dns") from error
