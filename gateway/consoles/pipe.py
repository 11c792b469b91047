"""A websocket that carries another protocol: the way in where only HTTPS is open.

``GET /libvirt`` with a bearer token is upgraded, and what its messages hold is what a libvirt client says. No
page of a browser can ask for it, for those cannot send that header with a websocket.
Source: RFC 6455; RFC 6750, section 2.1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from attrs import Factory, field, frozen
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.python.failure import Failure

from gateway import errors
from gateway.consoles.console_socket import ConsoleSocket
from gateway.consoles.credential import bearer
from gateway.consoles.websocket import SocketFactory
from gateway.core.exchange import Exchange
from gateway.core.web import Application
from gateway.wire.websocket_handshake import read_handshake

#: Where it is.
PATH = b"/libvirt"
#: What the client gets to know of an end that it did not want, by the word for it.
_ENDED: dict[str, errors.GatewayError] = {
    "revoked": errors.NoTicket("The ticket was revoked"),
    "expired": errors.Unauthorized("The ticket has expired", reason="expired"),
    "killed": errors.Forbidden("An administrator has ended the session"),
    "drained": errors.Unavailable("The gateway is being restarted"),
    "upstream": errors.UpstreamFailed("The connection to the hypervisor was lost"),
    "malformed": errors.BadRequest("What the client says makes no sense"),
}


class Carried(Protocol):
    """A protocol of Twisted, as far as it matters here."""

    @property
    def reason(self) -> str:
        """The word for why it hung up; empty as long as it did not."""

    def makeConnection(self, transport: Any) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`, as for the others."""

    def dataReceived(self, data: bytes) -> None: ...

    def connectionLost(self, reason: Failure) -> None: ...


class SocketTransport:
    """A websocket as the transport of a protocol.

    :ivar take: gets what the client says.
    """

    disconnecting = False
    socket: ConsoleSocket

    def __init__(self, protocol: Carried, peer: str) -> None:
        self.take: Callable[[bytes], object] = self._keep
        self._protocol = protocol
        self._peer = peer
        self._early = b""
        self._lost = False

    def receive(self, data: bytes) -> None:
        """Take what the client says."""
        self.take(data)

    def _keep(self, data: bytes) -> None:
        self._early += data

    def open(self, socket: ConsoleSocket) -> None:
        """Connect the protocol by *socket*."""
        self.socket = socket
        self._protocol.makeConnection(self)
        if not self._lost:
            self.take = self._protocol.dataReceived
        if self._early:
            self.take(self._early)

    def lose(self) -> None:
        """The protocol has no connection any more."""
        if not self._lost:
            self._lost = True
            self.take = lambda data: None
            self._protocol.connectionLost(Failure(ConnectionDone()))

    # -- of the protocol -------------------------------------------------------------------

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
        error = _ENDED.get(self._protocol.reason)
        self.socket.finish("" if error is None else error.text)

    def abortConnection(self) -> None:
        """Send no more; a client that has taken all until now hears why."""
        self.disconnecting = True
        reason = self._protocol.reason
        self.socket.cut(_ENDED.get(reason) or errors.Forbidden("The gateway has hung up", reason=reason))
        # Not from here, for the protocol is in the middle of something. And not when the client has said
        # its goodbye: it may take its time, and what is behind us shall not wait for that.
        self.socket.factory.clock.callLater(0, self.lose)

    def getPeer(self) -> IAddress:
        """Who the client is."""
        return IPv4Address("TCP", self._peer, 0)


@frozen
class Pipe:
    """Serves :data:`PATH`.

    :ivar admit: looks whether a token is good for an address, before anything is accepted.
    :ivar build: makes the protocol of somebody who has shown a token.
    """

    clock: IReactorTime
    admit: Callable[[str, str], Awaitable[None]]
    build: Callable[[str], Carried]
    sockets: SocketFactory = field(init=False, default=Factory(lambda pipe: SocketFactory(pipe.clock), True))

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
        transport = SocketTransport(self.build(token), exchange.peer)
        socket = self.sockets.accept(exchange, handshake, transport.receive)
        transport.open(socket)
        try:
            await socket.closed
        finally:
            transport.lose()
