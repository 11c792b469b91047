"""Reaches the hosts behind the gateway: resolve once, judge every address, dial what was judged.

The name is only used again to hold the peer's certificate to it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet import defer, error
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IHostnameResolver,
    IHostResolution,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.internet.protocol import ClientFactory, Protocol
from zope.interface import implementer

from gateway.core.policy import Policy, parse_host
from gateway.core.race import Open, attach, attempt, race, tune
from gateway.core.tls import Gate, wrap_client_tls
from gateway.core.tls_client import Strict
from gateway.errors import Forbidden, Unavailable, UpstreamFailed, UpstreamTimeout


class Dialer:
    """Opens connections to targets that the policy lets pass.

    :ivar policy: may be replaced at any time.
    :param resolver: the reactor's own by default.
    :param connect_timeout: seconds for TCP and TLS together.
    :param dns_timeout: seconds for the resolver, waiting for a turn included.
    :param source: local addresses to come from, at most one for each family.
    """

    def __init__(
        self,
        reactor: Any,
        policy: Policy,
        resolver: IHostnameResolver | None = None,
        connect_timeout: float = 10.0,
        dns_timeout: float = 5.0,
        source: Sequence[str] = (),
        lookups: int = 64,
    ) -> None:
        self.policy = policy
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._resolver = resolver
        self._connect_timeout = connect_timeout
        self._dns_timeout = dns_timeout
        self._source = {ipaddress.ip_address(it).version: it for it in source}
        self._turns = DeferredSemaphore(lookups)

    async def connect(
        self,
        scheme: str,
        host: str,
        port: int,
        protocol_factory: IProtocolFactory,
        *,
        tls: IOpenSSLClientConnectionCreator | None = None,
    ) -> IProtocol:
        """Connect a protocol to *host*; with *tls*, once the peer is verified.

        Of *protocol_factory* only ``buildProtocol`` is called, and only when all went well.

        :param host: name or address, IPv6 without brackets.
        :raises Forbidden: the policy refuses *host*, or any address it has.
        :raises UpstreamFailed: ``reason`` is ``dns``, ``refused``, ``unreachable`` or ``tls``.
        :raises UpstreamTimeout: ``reason`` is ``connect``.
        """
        opens = [self._tcp(address, port) for address in await self.judged(scheme, host, port)]
        return await self._within_time(self._open(opens, protocol_factory, tls))

    async def connect_unix(self, path: str, protocol_factory: IProtocolFactory) -> IProtocol:
        """Connect to a socket in the file system, or to an abstract one as ``\\0name``.

        Whether it may be reached is for the caller to know; raises as :meth:`connect` does.
        """

        if "\0" in path[1:] or not 0 < len(os.fsencode(path)) <= 107:
            raise UpstreamFailed(reason="unreachable")

        def open_socket(factory: ClientFactory[Protocol]) -> IConnector:
            return cast(IConnector, self._reactor.connectUNIX(path, factory, timeout=None))

        return await self._within_time(self._open([open_socket], protocol_factory, None))

    async def secure(
        self, transport: Any, protocol_factory: IProtocolFactory, tls: IOpenSSLClientConnectionCreator
    ) -> IProtocol:
        """Go on with TLS on a connection that is up, in the middle of a protocol.

        Nothing may have been read of what belongs to TLS. A protocol of *protocol_factory* takes the place
        of the one before once the peer is verified; that one hears nothing more.

        :raises UpstreamFailed: ``reason`` is ``tls``.
        :raises UpstreamTimeout: ``reason`` is ``connect``.
        """
        return await self._within_time(self._encrypt(transport, protocol_factory, tls))

    def _tcp(self, address: str, port: int) -> Open:
        source = self._source.get(ipaddress.ip_address(address).version)
        bind = None if source is None else (source, 0)

        def open_socket(factory: ClientFactory[Protocol]) -> IConnector:
            connector = self._reactor.connectTCP(address, port, factory, timeout=None, bindAddress=bind)
            return cast(IConnector, connector)

        return open_socket

    async def judged(self, scheme: str, host: str, port: int) -> list[str]:
        """Every address of *host*, all allowed, for somebody else to dial; raises as :meth:`connect`."""
        addresses = await self.addresses(host)
        for address in addresses:
            self.policy.judge(scheme, host, address, port)
        return addresses

    async def addresses(self, host: str) -> list[str]:
        """Every address of *host*, a name or an address itself, whoever may go there.

        :raises Forbidden: it is neither.
        :raises UpstreamFailed: ``reason`` is ``dns``.
        """
        try:
            name = parse_host(host)
        except ValueError as failure:
            raise Forbidden(reason="target") from failure
        try:
            return [str(ipaddress.ip_address(name))]
        except ValueError:
            return await self.resolve(name)

    async def resolve(self, name: str) -> list[str]:
        """Every address of *name*, whoever may go there.

        :raises UpstreamFailed: ``reason`` is ``dns``.
        """
        resolver: IHostnameResolver = self._resolver or self._reactor.nameResolver
        answer = _Answer()

        def look_up(_: object) -> None:
            if answer.wanted:
                resolver.resolveHostName(answer, name)
            else:
                answer.resolutionComplete()

        # A turn ends with the look-up, not with our patience: a thread works on it that long.
        self._turns.acquire().addCallback(look_up)
        answer.ended.addCallback(lambda _: self._turns.release())
        try:
            found = await answer.found.addTimeout(self._dns_timeout, self._clock)
        except defer.TimeoutError as failure:
            raise UpstreamFailed(reason="dns") from failure
        if not found:
            raise UpstreamFailed(reason="dns")
        return found

    async def _within_time(self, work: Any) -> IProtocol:
        deferred: Deferred[IProtocol] = Deferred.fromCoroutine(work)
        try:
            return await deferred.addTimeout(self._connect_timeout, self._clock)
        except (defer.TimeoutError, error.TimeoutError, error.TCPTimedOutError) as failure:
            raise UpstreamTimeout(reason="connect") from failure
        except error.ConnectionRefusedError as failure:
            raise UpstreamFailed(reason="refused") from failure
        except (error.ConnectError, OSError) as failure:
            raise UpstreamFailed(reason="unreachable") from failure

    async def _open(
        self,
        opens: Sequence[Open],
        factory: IProtocolFactory,
        tls: IOpenSSLClientConnectionCreator | None,
    ) -> IProtocol:
        transport: Any = await race(self._clock, [attempt(it) for it in opens])
        tune(transport)
        if tls is None:
            protocol = factory.buildProtocol(transport.getPeer())
            if protocol is None:
                transport.abortConnection()
                raise Unavailable()
            attach(transport, protocol)
            return protocol
        return await self._encrypt(transport, factory, tls)

    async def _encrypt(
        self, transport: Any, factory: IProtocolFactory, tls: IOpenSSLClientConnectionCreator
    ) -> IProtocol:
        wrapper: Any = wrap_client_tls(tls, factory, self._clock).buildProtocol(transport.getPeer())
        gate = cast(Gate, wrapper.wrappedProtocol)
        opened = gate.opened()
        attach(transport, wrapper)
        try:
            protocol = await opened
        except (SSL.Error, error.ConnectionClosed) as failure:
            raise UpstreamFailed(reason="tls") from failure
        if isinstance(tls, Strict):
            tls.made(wrapper.getHandle())
        return protocol


@implementer(IResolutionReceiver)
class _Answer:
    """What a resolver has to say.

    :ivar found: fires with the addresses, each once, in order; cancel it when they are not wanted.
    :ivar ended: fires when the resolver is done, wanted or not.
    """

    def __init__(self) -> None:
        self.found: Deferred[list[str]] = Deferred(self._drop)
        self.ended: Deferred[None] = Deferred()
        self.wanted = True
        self._addresses: dict[str, None] = {}

    def _drop(self, _: object) -> None:
        self.wanted = False

    def resolutionBegan(self, resolution: IHostResolution) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        self._addresses[cast(Any, address).host] = None

    def resolutionComplete(self) -> None:
        self.ended.callback(None)
        if self.wanted:
            self.found.callback(list(self._addresses))
