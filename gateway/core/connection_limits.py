"""How many connections there may be, decided at accept, before a byte of them costs anything.

Whoever was authorised once (:meth:`ConnectionLimits.proven`) is a stranger no more: the caps on strangers and
on the rate of all peers together pass over its address, so that silent peers cannot lock it out.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import TypeVar, cast

from attrs import define, field, frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, ILoggingContext, IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.core.audit import address_of
from gateway.core.config_model import Limits
from gateway.core.metrics import Metrics
from gateway.core.penalties import within
from gateway.core.ticket_news import Trail
from gateway.core.tls import Gate

Value = TypeVar("Value")

#: Addresses remembered that have no connection, of each kind; the oldest are forgotten first.
ADDRESSES = 10_000
#: How long an address counts as known after its last proven connection, seconds.
KNOWN = 900.0
#: Descriptors that are never for connections, and how many connections there are at the very least.
_RESERVED = 256
_LEAST = 16


def descriptors() -> int | None:
    """How many files this process may have open; None for any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


@define
class _Bucket:
    """What is left of a rate: at most one second's worth.

    :ivar since: when *tokens* was true, seconds of the clock.
    """

    tokens: float
    since: float

    def take(self, rate: float, now: float) -> bool:
        """Take one; whether there was one."""
        self.tokens = min(rate, self.tokens + (now - self.since) * rate)
        self.since = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@define
class _Share:
    """What one address has open."""

    connections: int = 0
    unproven: int = 0


@define(eq=False)
class _Connection:
    """One that is open.

    :ivar address: whom it counts for; None when it counts in all only.
    :ivar proven: whether a request on it was authorised.
    :ivar shaking: whether its TLS handshake is in progress.
    """

    listener: str
    address: str | None
    shaking: bool
    proven: bool = False


@define(eq=False)
class ConnectionLimits:
    """Counts the connections of all listeners together, and closes those that are one too many.

    :ivar limits: what is in force; :meth:`reload` exchanges it. Open connections stay.
    :ivar descriptors: how many files may be open, None for any number.
    :ivar pace: what part of the accept rates is in force, 0 to 1.
    """

    clock: IReactorTime
    limits: Limits
    metrics: Metrics
    audit: Trail
    descriptors: int | None = field(factory=descriptors)
    pace: float = 1.0
    _exempt: Callable[[str], bool] = field(init=False)
    _open: dict[IProtocol, _Connection] = field(factory=dict, init=False)
    _shares: dict[str, _Share] = field(factory=dict, init=False)
    _unproven: int = field(default=0, init=False)
    _shaking: int = field(default=0, init=False)
    _all: _Bucket = field(init=False)
    _buckets: dict[str, _Bucket] = field(factory=dict, init=False)
    _known: dict[str, float] = field(factory=dict, init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._all = _Bucket(self.limits.accept_rate, self.clock.seconds())
        self.reload(self.limits)

    def reload(self, limits: Limits) -> None:
        """Let *limits* be in force for connections to come."""
        self.limits = limits
        self._exempt = within(limits.exempt)
        if self.total < limits.connections:
            self._log.warn(
                "{total} connections instead of {wanted}: {descriptors} files may be open",
                total=self.total,
                wanted=limits.connections,
                descriptors=self.descriptors,
            )

    @property
    def total(self) -> int:
        """Connections there may be: each takes a descriptor, and one for what is behind it."""
        if self.descriptors is None:
            return self.limits.connections
        return max(_LEAST, min(self.limits.connections, self.descriptors // 2 - _RESERVED))

    @property
    def fraction(self) -> float:
        """Open connections as a part of :attr:`total`."""
        return len(self._open) / self.total

    def exempt(self, peer: str) -> bool:
        """Whether *peer* is one of our own proxies or local clients."""
        return self._exempt(peer)

    def hit(self, limit: str, peer: str, listener: str | None = None) -> None:
        """Count and audit one refusal by *limit*, a key of the configuration."""
        self.metrics.limit_hits.labels(limit).inc()
        self.audit("limit", peer=peer, listener=listener, result="refused", reason=limit)

    def wrap(self, factory: IProtocolFactory, listener: str) -> IProtocolFactory:
        """Count the connections of *factory*, plain or from :func:`gateway.core.tls.tls_factory`."""
        return _Counted(self, factory, listener, isinstance(factory, TLSMemoryBIOFactory))

    def proven(self, protocol: Protocol) -> None:
        """Take note that the peer of *protocol* was authorised.

        :param protocol: what a wrapped factory built, or what TLS carries for it.
        """
        connection = self._open.get(protocol) or self._open.get(cast(IProtocol, protocol.transport))
        if connection is not None and connection.address is not None and not connection.proven:
            connection.proven = True
            self._unproven -= 1
            self._shares[connection.address].unproven -= 1

    # -- for the factory ---------------------------------------------------------------------

    def admit(self, listener: str, peer: str, tls: bool) -> _Connection | None:
        """A connection from *peer* that may be opened; None when it is one too many, which is counted."""
        address = None if self._exempt(peer) else address_of(peer)
        limit = self._exceeded(address, tls)
        self.metrics.connections_total.labels(listener, "refused" if limit else "accepted").inc()
        if limit is not None:
            self.hit(limit, peer, listener)
            return None
        return _Connection(listener, address, tls and address is not None)

    def opened(self, protocol: IProtocol, connection: _Connection) -> None:
        """Count *connection*."""
        self._open[protocol] = connection
        self.metrics.connections.labels(connection.listener).inc()
        if connection.address is not None:
            share = self._shares.setdefault(connection.address, _Share())
            share.connections += 1
            share.unproven += 1
            self._unproven += 1
            self._shaking += connection.shaking

    def shaken(self, connection: _Connection) -> None:
        """Take note that no handshake of *connection* is in progress any more."""
        self._shaking -= connection.shaking
        connection.shaking = False

    def closed(self, protocol: IProtocol) -> None:
        """Uncount the connection of *protocol*; a second time does nothing."""
        connection = self._open.pop(protocol, None)
        if connection is None:
            return
        self.shaken(connection)
        self.metrics.connections.labels(connection.listener).dec()
        address = connection.address
        if address is None:
            return
        share = self._shares[address]
        share.connections -= 1
        if connection.proven:
            _put(self._known, address, self.clock.seconds())
        else:
            share.unproven -= 1
            self._unproven -= 1
        if share.connections == 0:
            del self._shares[address]

    # -- decisions ---------------------------------------------------------------------------

    def _exceeded(self, address: str | None, tls: bool) -> str | None:
        """The limit that one more connection of *address* would exceed."""
        limits, now = self.limits, self.clock.seconds()
        if address is not None:
            # First what is its own doing: a single address cannot use up the rate of all.
            bucket = self._buckets.get(address) or _Bucket(limits.accept_rate_per_address, now)
            _put(self._buckets, address, bucket)
            if not bucket.take(limits.accept_rate_per_address * self.pace, now):
                return "accept_rate_per_address"
            share = self._shares.get(address) or _Share()
            if share.connections >= limits.connections_per_address:
                return "connections_per_address"
            if share.unproven >= limits.unauthenticated_per_address:
                return "unauthenticated_per_address"
            if not self._knows(address, share):
                if not self._all.take(limits.accept_rate * self.pace, now):
                    return "accept_rate"
                if self._unproven >= limits.unauthenticated:
                    return "unauthenticated"
                if tls and self._shaking >= limits.handshakes:
                    return "handshakes"
        return "connections" if len(self._open) >= self.total else None

    def _knows(self, address: str, share: _Share) -> bool:
        if share.connections > share.unproven:
            return True
        last = self._known.get(address)
        return last is not None and self.clock.seconds() - last < KNOWN


def _put(table: dict[str, Value], address: str, value: Value) -> None:
    """Enter *value* as the newest; the oldest goes when there are too many."""
    table.pop(address, None)
    table[address] = value
    if len(table) > ADDRESSES:
        del table[next(iter(table))]


@implementer(IProtocolFactory, ILoggingContext)
@frozen(eq=False)
class _Counted:
    """A factory whose connections are counted. What it builds is what the other one built."""

    limits: ConnectionLimits
    factory: IProtocolFactory
    listener: str
    tls: bool

    def doStart(self) -> None:
        self.factory.doStart()

    def doStop(self) -> None:
        self.factory.doStop()

    def logPrefix(self) -> str:
        """What Twisted calls this when it begins and ends to listen."""
        inner = ILoggingContext(self.factory, None)
        return self.listener if inner is None else inner.logPrefix()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        limits = self.limits
        peer = addr.host if isinstance(addr, IPv4Address | IPv6Address) else "local"
        connection = limits.admit(self.listener, peer, self.tls)
        protocol = self.factory.buildProtocol(addr) if connection is not None else None
        if protocol is None or connection is None:
            return None
        limits.opened(protocol, connection)

        # In the place of the protocol's own methods, and gone after the first call: no hop for a byte.
        def connectionLost(reason: Failure = connectionDone) -> None:
            limits.closed(protocol)
            del protocol.connectionLost
            protocol.connectionLost(reason)

        protocol.connectionLost = connectionLost  # type: ignore[method-assign]  # counted on the way
        gate = getattr(protocol, "wrappedProtocol", None)
        if isinstance(gate, Gate):

            def handshakeCompleted() -> None:
                limits.shaken(connection)
                del gate.handshakeCompleted
                gate.handshakeCompleted()

            gate.handshakeCompleted = handshakeCompleted  # type: ignore[method-assign]  # likewise
        return protocol
