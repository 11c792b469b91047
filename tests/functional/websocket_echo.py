"""A server of websockets that gives messages back: a process, on a port, with one of two ways to frame."""

from __future__ import annotations

import sys
from typing import Any

from gateway.consoles.websocket import ConsoleSocket, FastSocket, SocketFactory, SocketLimits
from gateway.core.exchange import Exchange
from gateway.core.web import GatewaySite
from gateway.wire.websocket_frames import FrameLimits
from gateway.wire.websocket_handshake import read_handshake

_SIZE = 32 << 20


class Echo(ConsoleSocket):
    """Takes text as well, and keeps messages together, which a console does not."""

    def frames_taken(self) -> FrameLimits:
        return FrameLimits(_SIZE, _SIZE, text=True, boundaries=True)

    def onOpen(self) -> None:
        super().onOpen()
        self.message = bytearray()
        # Its own writing pauses its reading.
        self.registerProducer(self, True)

    def received(self, payload: bytes, text: bool, ends: bool) -> None:
        self.message += payload
        if ends:
            message, self.message = self.message, bytearray()
            self.send(bytes(message), text)


class FastEcho(Echo, FastSocket):  # type: ignore[misc, unused-ignore]  # untyped bases
    """With our own framing."""


def main(kind: str, port: int) -> None:
    """Serve until the process is ended."""
    from twisted.internet import reactor

    loop: Any = reactor
    sockets = SocketFactory(loop, SocketLimits(max_frame=_SIZE, max_message=_SIZE))
    sockets.protocol = {"fast": FastEcho, "stock": Echo}[kind]

    async def serve(exchange: Exchange) -> None:
        await sockets.accept(exchange, read_handshake(exchange.head), lambda data: None).closed

    site = GatewaySite(loop)
    site.routes.append(lambda exchange: serve)
    loop.listenTCP(port, site, interface="127.0.0.1")
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
