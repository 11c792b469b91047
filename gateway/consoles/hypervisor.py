"""Consoles behind a hypervisor: a stream of its protocol as a transport, or a socket that it hands out.

A serial line is a stream, which :class:`StreamTransport` makes look like any other connection; a screen is
a descriptor of a socket that leads to the machine's VNC server, and that is a connection already.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from attrs import field, frozen
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core.race import tune
from gateway.wire.hypervisor_url import ConsolePlace

_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


class Stream(Protocol):
    """Bytes both ways: a producer of what the console says, and a consumer of what it is told.

    Whoever has it closes it at the end, whatever that was.
    """

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        """Hand on what comes; the result fires at the end, or fails with a GatewayError."""

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...

    def finish(self) -> Deferred[None]:
        """Say that nothing follows; the result fires when the other side has all."""

    def close(self) -> None:
        """Give up what was not finished, and let go of the connection that it has to itself."""


class Hypervisors(Protocol):
    """What the hypervisors of the configuration can be asked for; names of them that are unknown are refused.

    Both methods raise :class:`~gateway.errors.GatewayError`. Principals take turns.
    """

    async def open_line(self, place: ConsolePlace, *, principal: str, force: bool) -> Stream:
        """Open a serial line.

        :param force: whoever has it now is thrown out.
        """

    async def open_graphics(self, place: ConsolePlace, *, principal: str) -> int:
        """Return the descriptor of a connected socket, which lets whoever has it in without a password."""


@implementer(ITransport, IConsumer, IPushProducer)
class StreamTransport:
    """The transport of one protocol over a stream.

    As with any other transport the protocol hears of the end in a turn of its own.
    """

    disconnecting = False
    _log = Logger()

    def __init__(self, stream: Stream, clock: IReactorTime) -> None:
        self._stream = stream
        self._clock = clock
        self._paused = False
        self._read = False
        self._over = False
        self._protocol: IProtocol | None = None

    def start(self, protocol: IProtocol) -> None:
        """Give *protocol* the connection."""
        self._protocol = protocol
        protocol.makeConnection(self)
        if not self._paused:
            self.resumeProducing()

    # -- from the console ------------------------------------------------------------------

    def _said(self, data: bytes) -> None:
        if self._protocol is not None and not self._over:
            # Looked up anew: whoever takes what the console says may change.
            self._protocol.dataReceived(data)

    def pauseProducing(self) -> None:
        self._paused = True
        if not self._over:
            self._stream.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._over:
            return
        if self._read:
            self._stream.resumeProducing()
        else:
            self._read = True
            self._stream.deliver(self._said).addCallbacks(lambda _: self._end(ConnectionDone()), self._failed)

    def stopProducing(self) -> None:
        self.loseConnection()

    # -- to the console --------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if data and not self.disconnecting:
            self._stream.write(data)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if not self._over:
            self._stream.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        if not self._over:
            self._stream.unregisterProducer()

    # -- the end ---------------------------------------------------------------------------

    def loseConnection(self) -> None:
        """Hang up when the console has all that was written."""
        if not self.disconnecting:
            self.disconnecting = True
            self._stream.finish().addCallbacks(lambda _: self._end(ConnectionDone()), self._failed)

    def abortConnection(self) -> None:
        """Hang up now."""
        self._end(ConnectionAborted())

    def _failed(self, failure: Failure) -> None:
        if self._over:
            return
        self._end(ConnectionLost())
        failure.trap(errors.GatewayError)
        reason = getattr(failure.value, "reason", "")
        self._log.info("a console of a hypervisor failed: {reason}", reason=reason)

    def _end(self, error: Exception) -> None:
        """It is over; only the first word counts."""
        if self._over:
            return
        self._over = self.disconnecting = True
        self._stream.close()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            self._clock.callLater(0, protocol.connectionLost, Failure(error))

    def getPeer(self) -> IAddress:
        return UNIXAddress(None)

    def getHost(self) -> IAddress:
        return UNIXAddress(None)


@frozen
class HypervisorReach:
    """Makes connections to consoles of hypervisors.

    :ivar reactor: times and adopts sockets.
    """

    hypervisors: Hypervisors = field(repr=False)
    reactor: Any = field(repr=False)

    async def connect(
        self, place: ConsolePlace, factory: IProtocolFactory, *, principal: str, force: bool
    ) -> IProtocol:
        """Connect a protocol of *factory* to the console at *place*.

        :param force: whoever has this serial line now is thrown out.
        :raises gateway.errors.GatewayError: it is out of reach.
        """
        if place.graphics is not None:
            descriptor = await self.hypervisors.open_graphics(place, principal=principal)
            return self._adopt(descriptor, factory)
        stream = await self.hypervisors.open_line(place, principal=principal, force=force)
        protocol = factory.buildProtocol(UNIXAddress(None))
        if protocol is None:
            stream.close()
            raise errors.Unavailable()
        StreamTransport(stream, self.reactor).start(protocol)
        return protocol

    def _adopt(self, descriptor: int, factory: IProtocolFactory) -> IProtocol:
        """Make a connection of a *descriptor*, which is closed: the connection has one of its own."""
        try:
            found = socket.socket(fileno=descriptor)
        except OSError as error:
            os.close(descriptor)
            raise errors.UpstreamFailed(reason="malformed") from error
        try:
            with found:
                if found.type != socket.SOCK_STREAM or found.family not in _FAMILIES:
                    raise errors.UpstreamFailed(reason="malformed")
                # Twisted would keep its copy of one that is not connected.
                found.getpeername()
                transport = self.reactor.adoptStreamConnection(found.fileno(), found.family, factory)
        except OSError as error:
            raise errors.UpstreamFailed(reason="closed") from error
        if transport is None:
            raise errors.Unavailable()
        tune(transport)
        protocol: IProtocol = transport.protocol
        return protocol
