"""A websocket that carries another protocol: the way in where only HTTPS is open.

``GET /libvirt`` with a bearer token is upgraded, and what its messages hold is what a libvirt client says. No
page of a browser can ask for it, for those cannot send that header with a websocket.
Source: RFC 6455; RFC 6750, section 2.1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocol, IPushProducer
from twisted.python.failure import Failure

from gateway import errors
from gateway.consoles.console_socket import ConsoleSocket, Ending
from gateway.consoles.credential import bearer
from gateway.consoles.websocket import SocketFactory
from gateway.core.exchange import Exchange
from gateway.core.web import Application
from gateway.wire.websocket_handshake import read_handshake

#: Where it is.
PATH = b"/libvirt"


class SocketTransport:
    """A websocket as the transport of a protocol."""

    disconnecting = False

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self.socket: ConsoleSocket

    def write(self, data: bytes) -> None:
        """Send *data*."""
        self.socket.write(data)

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """*producer* is paused while the client does not take what is sent."""
        self.socket.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Nobody sends much any more."""
        self.socket.unregisterProducer()

    def pauseProducing(self) -> None:
        """Read no more."""
        self.socket.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        self.socket.resumeProducing()

    def loseConnection(self) -> None:
        """Say goodbye when all is sent."""
        self.disconnecting = True
        self.socket.finish()

    def abortConnection(self) -> None:
        """Say goodbye at once."""
        self.disconnecting = True
        self.socket.end(errors.Expired("The session was ended"))

    def getPeer(self) -> IAddress:
        """Who the client is."""
        return IPv4Address("TCP", self._peer, 0)


class _Inbox:
    """Keeps what came with the request for a protocol that has a transport."""

    def __init__(self) -> None:
        self._early: list[bytes] = []
        self.put: Callable[[bytes], object] = self._early.append

    def open(self, sink: Callable[[bytes], object]) -> None:
        """Let *sink* have it, and all that follows."""
        self.put = sink
        for data in self._early:
            sink(data)


@frozen
class Pipe:
    """Serves :data:`PATH`.

    :ivar admit: looks whether a token is good for an address, before anything is accepted.
    :ivar build: makes the protocol of somebody who has shown a token.
    """

    sockets: SocketFactory
    admit: Callable[[str, str], Awaitable[None]]
    build: Callable[[str], IProtocol]

    def route(self, exchange: Exchange) -> Application | None:
        """Name what answers *exchange*, if it is ours; see :class:`gateway.core.web.GatewaySite`."""
        return self._answer if exchange.head.target.partition(b"?")[0] == PATH else None

    async def _answer(self, exchange: Exchange) -> None:
        handshake = read_handshake(exchange.head)
        if handshake.origin is not None:
            raise errors.Forbidden("This is not for pages", reason="origin")
        token = bearer(exchange.head).text
        await self.admit(token, exchange.peer)
        exchange.prove()
        transport: Any = SocketTransport(exchange.peer)
        protocol: Any = self.build(token)
        inbox = _Inbox()
        transport.socket = socket = self.sockets.accept(exchange, handshake, lambda data: inbox.put(data))  # noqa: PLW0108
        protocol.makeConnection(transport)
        inbox.open(protocol.dataReceived)
        ending: Ending | None = None
        try:
            ending = await socket.closed
        finally:
            protocol.connectionLost(Failure(ConnectionDone(ending.reason if ending is not None else "")))
