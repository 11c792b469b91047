"""TLS to a host that the user of a program has named: no policy stands between them."""

from __future__ import annotations

from typing import Any, cast

from attrs import define, field
from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory

from gateway import errors
from gateway.core.race import tune
from gateway.core.tls import Gate, wrap_client_tls
from gateway.core.tls_client import Strict


@define(eq=False)
class _Secured(Factory):
    """Builds the protocol behind TLS."""

    creator: Strict
    reactor: Any
    inner: IProtocolFactory
    opened: Deferred[IProtocol] | None = field(default=None, init=False)
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        wrapper: Any = wrap_client_tls(self.creator, self.inner, self.reactor).buildProtocol(
            cast(IAddress, addr)
        )
        self.opened = cast(Gate, wrapper.wrappedProtocol).opened()
        return wrapper


async def connect(reactor: Any, host: str, port: int, creator: Strict, factory: IProtocolFactory) -> None:
    """Connect a protocol of *factory*, once the host has proved itself.

    :raises gateway.errors.UpstreamFailed: it is out of reach (``reason`` is ``unreachable``), or cannot prove
        itself (``tls``).
    """
    secured = _Secured(creator, reactor, factory)
    try:
        wrapper: Any = await HostnameEndpoint(reactor, host, port).connect(secured)
        tune(wrapper.transport)
        if secured.opened is not None:
            await secured.opened
    except (error.ConnectError, error.DNSLookupError) as failure:
        raise errors.UpstreamFailed("The gateway is out of reach", reason="unreachable") from failure
    except (SSL.Error, error.ConnectionClosed) as failure:
        raise errors.UpstreamFailed("The gateway cannot prove itself", reason="tls") from failure
