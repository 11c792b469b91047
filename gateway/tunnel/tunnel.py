"""One tunnel: two connections, and the bytes between them.

Where the protocol is guarded, the beginning is read until it is known what this is: TLS, or a SPICE channel
and which. From then on bytes go from socket to socket (:mod:`gateway.core.pump`), or through the two
transports, each of which can pause the other. Who says that he has nothing more to say is still told the
rest; who goes takes the other one along, after the last byte.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core import pump, splice
from gateway.core.pump import Outlet, Pump, Tap
from gateway.core.splice import Splice
from gateway.wire.spice_link import LinkMessage, SpiceLink

#: Seconds for the first bytes of a tunnel that is guarded.
FIRST = 10.0
#: Seconds that one side may go on when the other has nothing more to say, or is gone.
LINGER = 30.0
#: Bytes that are looked at, at most: meanwhile neither side can hold up the other.
LOOKED = 64 * 1024
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
#: How TLS begins. Source: RFC 8446, section 5.1.
_TLS = b"\x16\x03"
#: More than any tunnel carries: it ends with its connection.
_ENDLESS = 1 << 62
#: Words for the end of a tunnel that nobody here wanted to end.
CLIENT, SERVER, LOST = "client", "server", "lost"
#: Source: SPICE protocol, channel types.
CHANNELS = (
    *("", "main", "display", "inputs", "cursor", "playback", "record"),
    *("tunnel", "smartcard", "usbredir", "port", "webdav"),
)


@frozen
class Watch:
    """What a tunnel tells while it is up.

    :ivar moved: how many bytes went from the client, and to it.
    :ivar named: what it carries.
    :ivar grouped: the number that a server and its one client know their connections by.
    """

    moved: Callable[[int, int], object]
    named: Callable[[str], object]
    grouped: Callable[[int], object]


@implementer(IPushProducer)
class _Flow:
    """Lets one side speak while the other takes it."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._paused = False

    def open(self) -> bool:
        """Whether it does."""
        return not self._paused

    def pauseProducing(self) -> None:
        self._paused = True
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """The end of a connection is told in another way."""


@implementer(IHalfCloseableProtocol)
class Side(Protocol):
    """One of the two connections.

    :ivar take: gets what it says.
    :ivar silent: it has nothing more to say.
    :ivar lost: it is gone.
    """

    transport: Any

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.take: Callable[[bytes], object] = _ignore
        self.pump: Pump | None = None
        self.silent = False
        self.lost = False

    def connectionMade(self) -> None:
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.take(data)

    def readConnectionLost(self) -> None:
        self.stop()
        self.silent = True
        self._tunnel.hushed(self)

    def writeConnectionLost(self) -> None:
        """We have said everything; it may go on."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.part()
        self.silent = self.lost = True
        self._tunnel.left(self, clean=reason.check(ConnectionDone) is not None)

    def part(self) -> None:
        """Hear nothing more of it, and have nothing more to say."""
        self.stop()
        self.take = _ignore
        self.transport.unregisterProducer()

    def stop(self) -> None:
        """Let its transport read for itself."""
        if self.pump is not None:
            self.pump.close()
            self.pump = None


class SideFactory(Factory):
    """Gives a connection its one protocol."""

    noisy = False

    def __init__(self, side: Side) -> None:
        self._side = side

    def buildProtocol(self, addr: IAddress | None) -> Side:
        return self._side


class Tunnel:
    """One tunnel.

    :param guarded: it is cut when it carries neither SPICE nor TLS.
    :ivar client: to be given the client's connection; that begins the tunnel.
    :ivar server: to be connected before.
    :ivar over: fires with a word when both connections are gone.
    """

    def __init__(self, clock: IReactorTime, watch: Watch, *, guarded: bool) -> None:
        self.client: Side = _Client(self)
        self.server = Side(self)
        self.over: Deferred[str] = Deferred()
        self._clock = clock
        self._watch = watch
        self._guarded = guarded
        self._link = SpiceLink() if guarded else None
        self._held = b""
        self._looked = 0
        self._grouped = False
        self._timer: IDelayedCall | None = None
        self._word = ""

    # -- the beginning ---------------------------------------------------------------------

    def begin(self) -> None:
        """The client's connection is ours."""
        self.client.transport.write(ESTABLISHED)
        if self.server.lost:
            self.left(self.server, clean=True)
        elif self._link is None:
            self._flow()
        else:
            self.client.take, self.server.take = self._look, self._look_back
            self._wait(FIRST, "guard")
            self.client.transport.resumeProducing()

    def _look(self, data: bytes) -> None:
        """Hear what the client begins with. Nothing passes before it is known, and nothing is changed."""
        link, held = self._link, self._held + data
        if link is None:
            self._pass(self.client, data)
            return
        self._held = held
        if link.message is None and held[:1] == _TLS[:1]:
            if held[:2] == _TLS:
                self._known("tls")
                self._flow()
            elif len(held) > 1:
                self.end("guard")
            return
        try:
            link.receive_client(data)
        except errors.GatewayError:
            if link.message is None:
                self.end("guard")
                return
            # Whatever it is, the server knows better.
            self._known(name_of(link.message))
            self._flow()
            return
        if link.message is not None:
            self._known(name_of(link.message))
            self._group(link.message.connection_id)
            self._settle(len(data))

    def _look_back(self, data: bytes) -> None:
        """Hear what the server answers."""
        self._pass(self.server, data)
        if self._link is not None:
            try:
                self._link.receive_server(data)
                self._group(self._link.session_id)
            except errors.GatewayError:
                self._flow()
        self._settle(len(data))

    def _known(self, name: str) -> None:
        """What was held may pass, and the server answer."""
        if self._timer is not None:
            self._rest()
            self._watch.named(name)
            self.server.transport.resumeProducing()
        held, self._held = self._held, b""
        self._pass(self.client, held)

    def _group(self, number: int | None) -> None:
        """A channel is asked for by the number of its session, which the server told on the main one."""
        if number and not self._grouped:
            self._grouped = True
            self._watch.grouped(number)

    def _settle(self, size: int) -> None:
        """Stop to listen once there is nothing more to learn, or it takes too long."""
        self._looked += size
        if self._link is not None and (self._link.done or self._link.code or self._looked > LOOKED):
            self._flow()

    # -- both ways -------------------------------------------------------------------------

    def _flow(self) -> None:
        """Let bytes pass unread from now on."""
        self._link = None
        for side, other in ((self.client, self.server), (self.server, self.client)):
            flow = _Flow(side.transport)
            other.transport.registerProducer(flow, True)
            side.take = partial(self._pass, side)
            side.pump = _pump(side.transport, other.transport, flow.open, partial(self._count, side))
        for side in (self.client, self.server):
            if not side.silent:
                side.transport.resumeProducing()

    def _pass(self, side: Side, data: bytes) -> None:
        other = self._other(side)
        if data and not other.lost:
            self._count(side, len(data))
            other.transport.write(data)

    def _count(self, side: Side, size: int) -> None:
        self._watch.moved(*((size, 0) if side is self.client else (0, size)))

    def _other(self, side: Side) -> Side:
        return self.server if side is self.client else self.client

    # -- the end ---------------------------------------------------------------------------

    def hushed(self, side: Side) -> None:
        """*side* has nothing more to say. In SPICE it is gone then; else it may listen on."""
        self._part(self._word_of(side))
        other = self._other(side)
        other.transport.unregisterProducer()
        self._wait(LINGER, LOST)
        if self._guarded or other.silent or ISSLTransport.providedBy(other.transport):
            side.transport.loseConnection()
        else:
            other.transport.loseWriteConnection()

    def left(self, side: Side, *, clean: bool) -> None:
        """*side* is gone: the other one gets the rest, and goes too."""
        self._part(self._word_of(side) if clean else LOST)
        other = self._other(side)
        if other.transport is None:
            return
        if other.lost:
            self._rest()
            self.over.callback(self._word)
        elif other is self.client or not self._stays():
            other.part()
            # It may be gone at once.
            self._wait(LINGER, LOST)
            other.transport.loseConnection()

    def end(self, word: str) -> None:
        """Cut both at once."""
        self._part(word)
        for side in (self.client, self.server):
            if side.transport is not None and not side.lost and (side is self.client or not self._stays()):
                side.part()
                side.transport.abortConnection()

    def _stays(self) -> bool:
        """Stay with a server that could not bear to be left now; see :class:`SpiceLink`."""
        link, server = self._link, self.server
        if link is None or link.settled or server.lost:
            return False
        self._link = None

        def hear(data: bytes) -> None:
            try:
                link.receive_server(data)
            except errors.GatewayError:
                server.transport.abortConnection()
            if link.settled:
                server.transport.loseConnection()

        server.part()
        server.take = hear
        server.transport.write(link.farewell())
        server.transport.resumeProducing()
        self._wait(FIRST, self._word)
        return True

    def _word_of(self, side: Side) -> str:
        return CLIENT if side is self.client else SERVER

    def _part(self, word: str) -> None:
        self._word = self._word or word

    def _wait(self, seconds: float, word: str) -> None:
        self._rest()
        self._timer = self._clock.callLater(seconds, self.end, word)

    def _rest(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


class _Client(Side):
    """The client's connection."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self._tunnel.begin()


def _pump(source: Any, target: Any, flowing: Callable[[], bool], moved: Callable[[int], None]) -> Pump | None:
    """The shortest way there is from *source* to *target*, if there is one that is shorter than theirs."""
    tap = Tap(source, _endless, _ignore, flowing)
    if splice.able(source) and splice.able(target):
        return Splice(tap, target, moved)
    if pump.able(source) and pump.able(target):
        return Pump(tap, Outlet(target, _ignore), moved)
    return None


def name_of(message: LinkMessage) -> str:
    """A channel, for people."""
    kind = message.channel_type
    name = CHANNELS[kind] if kind < len(CHANNELS) else f"channel {kind}"
    return f"{name} {message.channel_id}" if message.channel_id else name


def _endless() -> int:
    return _ENDLESS


def _ignore(it: object) -> None:
    pass
