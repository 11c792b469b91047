"""Websockets over real sockets: TCP and TLS, our framing and autobahn's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.protocols.tls import BufferingTLSTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.consoles.websocket import ConsoleSocket, Ending, FastSocket, SocketFactory, SocketLimits
from gateway.core import fasttls
from gateway.core.config_model import Limits
from gateway.core.connection_limits import ConnectionLimits
from gateway.core.exchange import Exchange
from gateway.core.metrics import Metrics
from gateway.core.tls import tls_factory
from gateway.core.web import GatewaySite
from gateway.wire.websocket_frames import BINARY, CLOSE, PING, PONG
from gateway.wire.websocket_handshake import read_handshake
from tests.consoles.test_console_socket import close, frames, hello
from tests.core.test_fasttls import Serve
from tests.support import ReactorTestCase
from tests.wire.test_websocket_frames import client

MIB = 1 << 20
#: What the kernel and the transports of both sides may hold of a stream that nobody takes.
IN_BETWEEN = 16 * MIB


class Browser(Protocol):
    """Shakes hands, and sends and collects bytes."""

    transport: Any

    def __init__(self) -> None:
        self.heard = bytearray()
        self.opened: Deferred[Browser] = Deferred()
        self.lost: Deferred[BaseException | None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(hello())

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if not self.opened.called and b"\r\n\r\n" in self.heard:
            del self.heard[: self.heard.index(b"\r\n\r\n") + 4]
            self.opened.callback(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


@implementer(IPushProducer)
class Source:
    """Writes to a console while it is wanted."""

    def __init__(self, socket: ConsoleSocket, total: int) -> None:
        self.socket = socket
        self.total = total
        self.written = 0
        self.wanted = True

    def run(self) -> None:
        while self.wanted and self.written < self.total:
            self.socket.write(pattern(self.written, 100_000))
            self.written += 100_000

    def pauseProducing(self) -> None:
        self.wanted = False

    def resumeProducing(self) -> None:
        self.wanted = True
        self.run()

    def stopProducing(self) -> None:
        self.wanted = False


def pattern(start: int, size: int) -> bytes:
    return (start // 100_000).to_bytes(4, "big") * (size // 4)


class PlainTests(ReactorTestCase):
    """Our framing over TCP."""

    kind: type[ConsoleSocket] = FastSocket
    transport: Any = None
    limits = SocketLimits()

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.sockets = SocketFactory(self.reactor, self.limits)
        self.sockets.protocol = self.kind
        self.site = GatewaySite(self.reactor)
        self.site.routes.append(lambda exchange: self.serve)
        factory: Any = self.site
        if self.transport is not None:
            factory = tls_factory(Serve(), self.site, self.reactor)
            factory.protocol = self.transport
        self.count = ConnectionLimits(self.reactor, Limits(exempt=()), Metrics(0.0), self.note)
        factory = self.count.wrap(factory, "consoles")
        port: Any = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.port: int = port.getHost().port
        self.heard = bytearray()
        self.hear: Callable[[bytes], object] = self.heard.extend
        self.accepted: Deferred[ConsoleSocket] = Deferred()
        self.ended: Deferred[Ending] = Deferred()

    async def serve(self, exchange: Exchange) -> None:
        self.socket = self.sockets.accept(
            exchange, read_handshake(exchange.head), lambda data: self.hear(data)
        )
        self.accepted.callback(self.socket)
        self.ended.callback(await self.socket.closed)

    def note(self, event: str, /, **fields: object) -> None:
        """The audit trail; nothing is refused here."""
        self.fail(event)

    def endpoint(self) -> Any:
        endpoint: Any = HostnameEndpoint(self.reactor, "127.0.0.1", self.port)
        return endpoint if self.transport is None else wrapClientTLS(CertificateOptions(), endpoint)

    async def browse(self) -> Browser:
        browser: Browser = await connectProtocol(self.endpoint(), Browser())
        self.addCleanup(self.leave, browser)
        await browser.opened
        self.assertGreater(self.count.fraction, 0)
        return browser

    async def leave(self, browser: Browser) -> None:
        """Both sides gone; nothing is left of them."""
        if not browser.lost.called:
            browser.transport.abortConnection()
            await browser.lost
        await self.ended
        await self.until(lambda: not self.site._channels and not self.count.fraction)

    def wait(self, seconds: float) -> Deferred[None]:
        return deferLater(self.reactor, seconds, lambda: None)

    async def still(self, number: Callable[[], int]) -> int:
        """Wait until *number* does not change any more; return it."""
        before = -1
        while number() != before:
            before = number()
            await self.wait(0.3)
        return before

    def waiting(self) -> int:
        """Bytes that wait in our process to be sent."""
        lowest: Any = self.socket.transport
        while not hasattr(lowest, "dataBuffer"):
            lowest = lowest.transport
        waiting: int = len(lowest.dataBuffer) - lowest.offset + sum(map(len, lowest._tempDataBuffer))
        return waiting

    async def test_echo(self) -> None:
        """Megabytes go through in both directions at once, in frames of any size, and none is lost."""
        browser = await self.browse()
        self.hear = self.socket.write
        # The socket is what its own writing pauses.
        self.socket.registerProducer(self.socket, True)
        source = random.Random(7)
        sent = source.randbytes(3 * MIB)
        data, position = bytearray(), 0
        while position < len(sent):
            size = source.choice((1, 125, 126, 1000, 16_384, 65_536, 200_000))
            data += client(BINARY, sent[position : position + size], key=source.randbytes(4))
            position += size
        browser.transport.write(bytes(data))
        got = bytearray()
        await self.until(lambda: len(browser.heard) >= len(sent))
        await self.still(lambda: len(browser.heard))
        for _, payload in frames(browser.heard):
            got += payload
        self.assertEqual(bytes(got), sent)

    async def test_autobahn(self) -> None:
        """autobahn's own client agrees: handshake, subprotocol, messages, ping and goodbye."""
        told: list[Any] = []

        class Client(WebSocketClientProtocol):  # type: ignore[misc, unused-ignore]  # untyped base
            def onConnect(self, response: Any) -> None:
                told.append(response.protocol)

            def onOpen(self) -> None:
                self.sendMessage(b"x" * 100_000, isBinary=True, fragmentSize=999)
                self.sendPing(b"there?")

            def onPong(self, payload: bytes) -> None:
                told.append(payload)

            def onMessage(self, payload: bytes, isBinary: bool) -> None:
                told.append((len(payload), isBinary))
                self.sendClose(1000, "bye")

            def onClose(self, wasClean: bool, code: int, reason: str) -> None:
                told.append((wasClean, code))

        factory = WebSocketClientFactory("ws://localhost", protocols=["chat", "binary"], reactor=self.reactor)
        factory.protocol = Client
        browser = await self.endpoint().connect(factory)
        await self.accepted
        await self.until(lambda: len(self.heard) == 100_000)
        self.socket.write(b"y" * 50_000)
        self.assertEqual(await self.ended, Ending(1000, "bye", False, True))
        await browser.is_closed
        await self.until(lambda: len(told) == 4)
        self.assertEqual(told, ["binary", b"there?", (50_000, True), (True, 1000)])

    async def test_stalled_browser(self) -> None:
        """A browser that takes nothing costs what is in between, and gets everything when it reads on."""
        browser = await self.browse()
        browser.transport.pauseProducing()
        source = Source(self.socket, 64 * MIB)
        self.socket.registerProducer(source, True)
        source.run()
        written = await self.still(lambda: source.written)
        self.assertLess(written, IN_BETWEEN)
        self.assertLess(self.waiting(), MIB)
        source.total = written + 10 * 100_000
        browser.transport.resumeProducing()
        await self.until(lambda: len(browser.heard) > source.total)
        got = b"".join(payload for _, payload in frames(browser.heard))
        self.assertEqual(got, b"".join(pattern(at, 100_000) for at in range(0, source.total, 100_000)))

    async def test_stalled_target(self) -> None:
        """A target that takes nothing stops the browser; nothing is lost."""
        browser = await self.browse()
        self.socket.pauseProducing()
        browser.transport.write(client(BINARY, b"x" * MIB) * 48)
        await self.wait(0.5)
        self.assertEqual(len(self.heard), 0)
        self.socket.resumeProducing()
        await self.until(lambda: len(self.heard) == 48 * MIB)

    async def test_ping_flood(self) -> None:
        """Who pings and does not read is answered when it reads, and until then costs nothing more."""
        browser = await self.browse()
        browser.transport.pauseProducing()
        source = Source(self.socket, 64 * MIB)
        self.socket.registerProducer(source, True)
        source.run()
        await self.still(lambda: source.written)
        before = self.waiting()
        source.total = 0
        browser.transport.write(
            client(PING, b"?" * 125) * 20_000 + client(PING, b"last") + client(BINARY, b"!")
        )
        await self.until(lambda: self.heard == b"!")
        self.assertLessEqual(self.waiting(), before)
        browser.transport.resumeProducing()
        await self.until(lambda: browser.heard.endswith(b"last"))
        self.assertEqual([it for it in frames(browser.heard) if it[0] == PONG], [(PONG, b"last")])

    async def test_mistake(self) -> None:
        """Who breaks the rules gets to know, in whatever hurry it was."""
        browser = await self.browse()
        browser.transport.write(client(BINARY, b"good") + client(3) + client(BINARY, b"x" * 900_000) * 3)
        await self.until(lambda: len(browser.heard) > 4)
        self.assertEqual([(it[0], it[1][0]) for it in frames(browser.heard)], [(CLOSE, 1002)])
        browser.transport.loseConnection()
        ending = await self.ended
        self.assertEqual((ending.code, ending.ours), (1002, True))
        self.assertEqual(self.heard, b"good")

    async def test_goodbye(self) -> None:
        """What was written last is there before the goodbye, and both sides close."""
        browser = await self.browse()
        self.socket.write(b"x" * MIB)
        self.socket.finish("Target closed")
        await self.until(lambda: browser.heard.endswith(b"Target closed"))
        sent = frames(browser.heard)
        self.assertEqual(b"".join(payload for _, payload in sent[:-1]), b"x" * MIB)
        self.assertEqual(sent[-1], (CLOSE, (1000, "Target closed")))
        browser.transport.write(close(1000))
        self.assertEqual(await self.ended, Ending(1000, "Target closed", True, True))
        await browser.lost

    async def test_abort(self) -> None:
        """A console can be cut, also by the site."""
        browser = await self.browse()
        self.site.close()
        ending = await self.ended
        self.assertEqual((ending.code, ending.clean), (1006, False))
        await browser.lost


class TLSTests(PlainTests):
    """Our framing over fast TLS."""

    transport = fasttls.FastTLS


class StockTests(PlainTests):
    """autobahn's framing over TCP."""

    kind = ConsoleSocket


class StockTLSTests(PlainTests):
    """autobahn's framing over Twisted's TLS."""

    kind = ConsoleSocket
    transport = BufferingTLSTransport
