"""Fast TLS and Twisted's own keep the same promises, over real sockets."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.core import dev_pki, fasttls
from gateway.core.tls import basic_context, present, tls_factory
from tests.support import ReactorTestCase

SIZES = (1, 5, 16_383, 16_384, 16_385, 131_072, 131_073, 400_000, 3)
LARGE = 8 << 20
BULK = fasttls.CHUNK


@cache
def issued() -> dev_pki.Issued:
    """A certificate for nobody in particular."""
    now = datetime.now(UTC)
    return dev_pki.authority(now).issue("host.invalid", now=now)


@implementer(IOpenSSLServerConnectionCreator)
class Serve:
    """Makes server sides."""

    def __init__(self) -> None:
        self.context = basic_context(SSL.TLS_SERVER_METHOD)
        present(self.context, [issued().certificate], issued().key)

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class Side(Protocol):
    """The server's protocol; remembers what happens to it."""

    transport: Any

    def __init__(self) -> None:
        self.heard = bytearray()
        self.deliveries = 0
        self.lost: Deferred[BaseException | None] = Deferred()
        self.echo = False

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        self.deliveries += 1
        if self.echo:
            self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


@implementer(IPushProducer)
class Source:
    """Writes while it is wanted."""

    def __init__(self, side: Side, total: int) -> None:
        self.side = side
        self.left = total
        self.pauses = 0
        self.wanted = True

    def run(self) -> None:
        while self.wanted and self.left:
            piece = min(self.left, 100_000)
            self.left -= piece
            self.side.transport.write(b"x" * piece)
        if not self.left:
            self.side.transport.unregisterProducer()
            self.side.transport.loseConnection()

    def pauseProducing(self) -> None:
        self.pauses += 1
        self.wanted = False

    def resumeProducing(self) -> None:
        self.wanted = True
        self.run()

    def stopProducing(self) -> None:
        self.wanted = False
        self.left = 0


class StockTests(ReactorTestCase):
    """Twisted's transport, which serves where ours cannot; the client is OpenSSL on a plain socket."""

    kind: type[TLSMemoryBIOProtocol] = BufferingTLSTransport

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.side = Side()
        factory: Any = tls_factory(Serve(), Factory.forProtocol(lambda: self.side), reactor)
        factory.protocol = self.kind
        port: Any = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.socket = socket.create_connection(("127.0.0.1", port.getHost().port), 5)
        self.addCleanup(self.socket.close)
        self.socket.setblocking(False)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_verify(SSL.VERIFY_NONE)
        self.client = SSL.Connection(context, self.socket)
        self.client.set_connect_state()

    async def turn(self) -> None:
        await deferLater(self.reactor, 0.001, lambda: None)

    async def do(self, operation: Any, *args: object) -> Any:
        """Repeat an operation of the client until it need not wait."""
        while True:
            try:
                return operation(*args)
            except (SSL.WantReadError, SSL.WantWriteError):
                await self.turn()

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = await self.do(self.client.send, view[:100_000].tobytes())
            view = view[sent:]

    async def receive(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            got += await self.do(self.client.recv, 65536)
        return got

    async def connected(self) -> None:
        await self.do(self.client.do_handshake)
        await self.turn()

    async def test_both_ways(self) -> None:
        """Every byte arrives once and in order, whatever the sizes of the pieces."""
        self.side.echo = True
        await self.connected()
        for size in SIZES:
            data = os.urandom(size)
            await self.send(data)
            self.assertEqual(await self.receive(size), data)

    async def test_large_write(self) -> None:
        """One write may be larger than every buffer on the way."""
        data = os.urandom(LARGE)
        await self.connected()
        self.side.transport.write(data)
        self.side.transport.writeSequence([b"a", b"b"])
        self.assertEqual(await self.receive(LARGE + 2), data + b"ab")

    async def test_back_pressure(self) -> None:
        """A producer is paused while the peer does not read, and what it wrote arrives before the end."""
        await self.connected()
        source = Source(self.side, LARGE)
        self.side.transport.registerProducer(source, True)
        source.run()
        for _ in range(50):
            await self.turn()
        self.assertGreaterEqual(source.pauses, 1)
        self.assertGreater(source.left, LARGE // 4)
        self.assertEqual(await self.receive(LARGE), b"x" * LARGE)
        with self.assertRaises(SSL.ZeroReturnError):
            await self.receive(1)

    async def test_close(self) -> None:
        """A close sends what was written before it and nothing after, then ends in good order."""
        await self.connected()
        self.side.transport.write(b"last")
        self.side.transport.loseConnection()
        self.side.transport.write(b"too late")
        self.assertEqual(await self.receive(4), b"last")
        with self.assertRaises(SSL.ZeroReturnError):
            await self.receive(1)
        self.client.shutdown()
        reason = await self.side.lost
        self.assertIsInstance(reason, ConnectionDone)

    async def test_closed_by_peer(self) -> None:
        """The peer's own close ends the connection after its last bytes."""
        await self.connected()
        await self.send(b"x" * 200_000)
        self.client.shutdown()
        reason = await self.side.lost
        self.assertEqual((len(self.side.heard), type(reason)), (200_000, ConnectionDone))

    async def test_truncated(self) -> None:
        """An end without the TLS alert is a loss, never a clean end."""
        await self.connected()
        await self.send(b"part")
        self.socket.shutdown(socket.SHUT_RDWR)
        reason = await self.side.lost
        self.assertIsInstance(reason, ConnectionLost)
        self.assertEqual(self.side.heard, b"part")

    async def test_garbage(self) -> None:
        """What is no TLS ends the connection with an error, delivering nothing of it."""
        await self.connected()
        self.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        reason = await self.side.lost
        self.assertIsInstance(reason, SSL.Error)
        self.assertEqual(self.side.heard, b"")

    async def test_abort(self) -> None:
        """An abort drops what waits and delivers nothing more, least of all an end in good order."""
        await self.connected()
        self.side.transport.write(b"x" * LARGE)
        self.side.transport.abortConnection()
        await self.side.lost
        with self.assertRaises((SSL.SysCallError, OSError)):
            await self.receive(LARGE)

    async def test_cut(self) -> None:
        """An abort with nothing waiting does not look like an end in good order either."""
        await self.connected()
        self.side.transport.write(b"part")
        self.assertEqual(await self.receive(4), b"part")
        self.side.transport.abortConnection()
        await self.side.lost
        with self.assertRaises((SSL.SysCallError, OSError)):
            await self.receive(1)

    async def test_paused(self) -> None:
        """Nothing is read for a protocol that has paused its transport."""
        await self.connected()
        self.side.transport.pauseProducing()
        self.client.send(b"waits")
        for _ in range(20):
            await self.turn()
        self.assertEqual(self.side.heard, b"")
        self.side.transport.resumeProducing()
        while not self.side.heard:
            await self.turn()
        self.assertEqual(self.side.heard, b"waits")
        self.side.transport.abortConnection()
        await self.side.lost


class FastTests(StockTests):
    """Ours, held to the same promises."""

    kind = fasttls.FastTLS

    async def test_few_deliveries(self) -> None:
        """A read from the socket is one delivery, not one for each record."""
        await self.connected()
        self.side.transport.pauseProducing()
        for _ in range(6):
            await self.do(self.client.send, b"x" * 16_384)
        await self.turn()
        self.side.transport.resumeProducing()
        while len(self.side.heard) < 6 * 16_384:
            await self.turn()
        self.assertLessEqual(self.side.deliveries, 2)

    async def test_gathered(self) -> None:
        """What is gathered leaves with a flush, or before what is written next; records stay apart."""
        await self.connected()
        ours = self.side.transport
        ours.gather(b"one")
        ours.gather(b"two")
        for _ in range(20):
            await self.turn()
        self.assertRaises(SSL.WantReadError, self.client.recv, 100)
        ours.flush()
        self.assertEqual([await self.do(self.client.recv, 100) for _ in range(2)], [b"one", b"two"])
        ours.gather(b"three")
        ours.write(b"four")
        ours.flush()
        self.assertEqual([await self.do(self.client.recv, 100) for _ in range(2)], [b"three", b"four"])
        ours.abortConnection()
        await self.side.lost

    async def test_gathered_cut(self) -> None:
        """What was gathered and not flushed is lost with the connection, and nobody minds."""
        await self.connected()
        ours = self.side.transport
        ours.gather(b"gone")
        ours.abortConnection()
        ours.gather(b"gone as well")
        ours.flush()
        await self.side.lost
        await self.turn()
        ours.flush()
        with self.assertRaises((SSL.SysCallError, SSL.ZeroReturnError, OSError)):
            while True:
                self.assertNotIn(b"as well", await self.receive(1))

    async def test_bulk(self) -> None:
        """Large writes come in their place among all others, whether the peer reads or not."""
        await self.connected()
        ours, expected = self.side.transport, b""
        bulk = os.urandom(3 * BULK)
        for at in range(8):
            view = memoryview(bulk)[at : at + BULK + at * 50_000]
            ours.write(view)
            ours.gather(b"gathered")
            ours.write(view)
            ours.write(b"little")
            expected += bytes(view) + b"gathered" + bytes(view) + b"little"
            if at in (0, 7):
                # The first found a free way, and the last had to wait.
                self.assertTrue(await self.receive(len(expected)) == expected)
                expected = b""
            await self.send(b"back")
        while len(self.side.heard) < 8 * 4:
            await self.turn()
        self.assertEqual(self.side.heard, b"back" * 8)

    async def test_bulk_waits(self) -> None:
        """What waits goes before a large write, also when the socket has just come free."""
        await self.connected()
        ours, sent, got = self.side.transport, bytearray(), bytearray()
        while not fasttls.queued(ours.lowest):
            sent += (piece := os.urandom(BULK))
            ours.write(memoryview(piece))
        with self.assertRaises(SSL.WantReadError):
            for _ in range(LARGE):
                got += self.client.recv(65536)
        sent += (piece := os.urandom(BULK))
        ours.write(memoryview(piece))
        got += await self.receive(len(sent) - len(got))
        self.assertTrue(got == sent)

    async def test_bulk_between(self) -> None:
        """What has arrived and was not asked for yet is there after a large write, too."""
        await self.connected()
        ours, room = self.side.transport, memoryview(bytearray(fasttls.ROOM))
        ours.pauseProducing()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        for piece in (b"first", b"second", b"third"):
            await self.send(piece)
        for _ in range(20):
            await self.turn()
        while (size := ours.receive_into(room, 7)) is None:
            await self.turn()
        self.assertEqual(bytes(room[:size]), b"firstse")
        ours.write(memoryview(bytes(BULK)))
        ours.settle()
        self.assertEqual(self.side.heard, b"condthird")
        self.assertEqual(await self.receive(BULK), bytes(BULK))
        ours.abortConnection()
        await self.side.lost

    async def test_bulk_lost(self) -> None:
        """A connection that was cut ends by a large write as by any other."""
        await self.connected()
        ours = self.side.transport
        ours.pauseProducing()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        for _ in range(3):
            ours.write(memoryview(bytes(BULK)))
        self.assertIsInstance(await self.side.lost, ConnectionLost)
        ours.write(memoryview(bytes(BULK)))

    async def test_shrinks(self) -> None:
        """What a large write needed is given back after it, and everything comes as before."""
        await self.connected()
        ours = self.side.transport
        for data in (os.urandom(BULK), b"little"):
            before = ours._tlsConnection._from_ssl
            ours.write(memoryview(data))
            ours.unregisterProducer()
            self.assertEqual(ours._tlsConnection._from_ssl == before, len(data) < BULK)
            self.assertTrue(await self.receive(len(data)) == data)
        await self.send(b"back")
        while self.side.heard != b"back":
            await self.turn()

    def test_chosen(self) -> None:
        """It is what serves here, unless the environment says otherwise."""
        self.assertEqual(fasttls.MISSING, ())
        code = "from gateway.core.fasttls import TRANSPORT; print(TRANSPORT.__name__)"
        for value, name in (("on", "FastTLS"), ("off", "BufferingTLSTransport")):
            environment = {**os.environ, "GATEWAY_FAST": value}
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, check=True
            )
            self.assertEqual(done.stdout.split(), [name.encode()])
