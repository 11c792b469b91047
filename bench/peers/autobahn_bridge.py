"""Websockets to TCP, by autobahn's messages and Twisted's TLS.

Arguments: a port, the files of a certificate and its key, and ``{"/path": port of a console, ...}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.python.failure import Failure

HOST = "127.0.0.1"


class Target(Protocol):
    """The connection to a console; each side pauses the other."""

    transport: Any

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.browser.reached(self)

    def dataReceived(self, data: bytes) -> None:
        self.browser.sendMessage(data, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.browser.sendClose()


class Dial(ClientFactory):
    noisy = False

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def buildProtocol(self, addr: IAddress | None) -> Target:
        return Target(self.browser)


class Browser(WebSocketServerProtocol):  # type: ignore[misc, unused-ignore]  # untyped base
    transport: Any
    target: Target | None = None

    def onConnect(self, request: Any) -> str:
        self.path = request.path
        return "binary"

    def onOpen(self) -> None:
        from twisted.internet import reactor

        self.transport.pauseProducing()
        reactor.connectTCP(HOST, self.factory.targets[self.path], Dial(self))

    def reached(self, target: Target) -> None:
        self.target = target
        target.transport.registerProducer(self.transport, True)
        self.transport.registerProducer(target.transport, True)
        self.transport.resumeProducing()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.target is not None:
            self.target.transport.write(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self.target is not None:
            self.target.transport.unregisterProducer()
            self.target.transport.loseConnection()


class Bridges(WebSocketServerFactory):  # type: ignore[misc, unused-ignore]  # untyped base
    protocol = Browser

    def __init__(self, targets: Mapping[str, int]) -> None:
        super().__init__()
        self.targets = targets
        self.setProtocolOptions(tcpNoDelay=True)


def main(port: str, certificate: str, key: str, targets: str) -> None:
    from twisted.internet import reactor

    factory, tls = Bridges(json.loads(targets)), DefaultOpenSSLContextFactory(key, certificate)
    reactor.listenSSL(int(port), factory, tls, backlog=1024, interface=HOST)  # type: ignore[attr-defined]  # to mypy a module
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
