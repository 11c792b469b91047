"""Another protocol takes over a connection of HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core.exchange import Exchange
from tests.core.test_channel import ChannelCase, Wire, request, statuses


class Successor(Protocol):
    """Says hello, and remembers what it hears."""

    transport: Any

    def __init__(self) -> None:
        self.heard = b""
        self.events: list[str] = []
        self.pauses = False

    def connectionMade(self) -> None:
        self.transport.write(b"HTTP/1.1 101 Hello\r\n\r\n")
        if self.pauses:
            self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.events.append("lost")


@implementer(IHalfCloseableProtocol)
class Halves(Successor):
    """One that cares for each direction by itself."""

    def readConnectionLost(self) -> None:
        self.events.append("read")

    def writeConnectionLost(self) -> None:
        self.events.append("write")


class UpgradeTests(ChannelCase):
    """From the answer to the end of the connection."""

    def setUp(self) -> None:
        super().setUp()
        self.successor = Successor()
        self.application = self.upgrade
        self.then: Callable[[], Any] = lambda: Deferred()
        self.before: Deferred[None] | None = None

    async def upgrade(self, exchange: Exchange) -> None:
        if self.before is not None:
            await self.before
        exchange.upgrade(self.successor)
        try:
            await self.then()
        except CancelledError:
            self.successor.events.append("cancelled")
            raise

    def test_bytes(self) -> None:
        """The connection is the successor's, both ways and as it is; nothing is read as HTTP any more."""
        wire = self.ask(request())
        self.assertEqual(wire.taken(), b"HTTP/1.1 101 Hello\r\n\r\n")
        for piece in (b"\0", request(), b"\r\n\r\n"):
            wire.receive(piece)
        self.assertEqual(self.successor.heard, b"\0" + request() + b"\r\n\r\n")
        self.assertEqual(wire.taken(), b"")
        self.assertEqual(len(self.seen), 1)
        self.assertEqual([status for status, _ in self.observed], [101])

    def test_early(self) -> None:
        """What the client sent before it had its answer is not lost, however much it is."""
        for early in (b"hello", b"x" * 100_000):
            self.before = Deferred()
            self.successor = Successor()
            wire = self.ask(request() + early[:3])
            wire.receive(early[3:])
            self.assertLess(len(self.successor.heard), len(early))
            self.before.callback(None)
            wire.receive(b"!")
            self.assertEqual(self.successor.heard, early + b"!")

    def test_pause(self) -> None:
        """Whether the connection is read is for the successor to say."""
        self.before = Deferred()
        self.successor.pauses = True
        wire = self.ask(request() + b"x" * 50_000)
        self.before.callback(None)
        self.assertFalse(wire.reading)

    def test_no_deadline(self) -> None:
        """No time limit of HTTP holds any more."""
        wire = self.ask(request())
        self.clock.pump([60.0] * 100)
        self.assertFalse(wire.closed or wire.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """The successor hears of the end first; then the application is cancelled, and the site knows."""
        gone: list[str] = []
        self.then = lambda: Deferred()
        wire = self.ask(request())
        self.seen[0].while_connected("key", lambda: None, lambda: gone.append("gone"))
        self.assertEqual(len(self.site._channels), 1)
        wire.end()
        self.assertEqual(self.successor.events, ["lost", "cancelled"])
        self.assertEqual((len(self.site._channels), gone), (0, ["gone"]))
        self.assertEqual(len(self.observed), 1)

    def test_half_closed(self) -> None:
        """Who can go on when only one direction has ended hears of each; a transport asks by interface."""
        self.successor = successor = Halves()
        self.before = Deferred()
        wire = self.ask(request())
        channel: Any = wire.protocol
        self.assertFalse(IHalfCloseableProtocol.providedBy(channel))
        self.before.callback(None)
        self.assertTrue(IHalfCloseableProtocol.providedBy(channel))
        channel.readConnectionLost()
        self.assertFalse(wire.closed or wire.aborted)
        channel.writeConnectionLost()
        wire.end()
        self.assertEqual(successor.events, ["read", "write", "lost", "cancelled"])
        self.assertNotIn("readConnectionLost", vars(channel))

    def test_no_halves(self) -> None:
        """Of others, and of HTTP itself, the end of one direction is the end."""
        for wire in (self.ask(request()), self.ask(request(b"GET /none")), self.connect()):
            self.assertFalse(IHalfCloseableProtocol.providedBy(wire.protocol))

    def test_drain(self) -> None:
        """Draining waits for it, closing does not."""
        wire = self.ask(request())
        self.site.drain()
        self.assertFalse(wire.closed or wire.aborted)
        self.site.close()
        self.assertTrue(wire.aborted)

    def test_failure(self) -> None:
        """An application that fails takes the connection with it."""
        for error, logged in ((errors.UpstreamFailed(), 0), (ZeroDivisionError(), 1)):
            self.successor = Successor()
            fails: Deferred[None] = Deferred()
            self.then = lambda fails=fails: fails  # type: ignore[misc]  # mypy does not infer what has a default
            wire = self.ask(request())
            wire.taken()
            fails.errback(error)
            self.assertTrue(wire.aborted)
            self.assertEqual(wire.taken(), b"")
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), logged)
            wire.end()
            self.assertEqual(self.successor.events, ["lost"])

    def test_once(self) -> None:
        """An exchange is answered once."""

        async def twice(exchange: Exchange) -> None:
            exchange.respond(200)
            exchange.upgrade(self.successor)

        self.application = twice
        wire: Wire = self.ask(request())
        self.assertNotIn(b"101", wire.sent)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class ProxyTests(ChannelCase):
    """A site that clients take for their proxy."""

    def setUp(self) -> None:
        super().setUp()
        self.successor = Successor()
        self.site.proxy = True
        self.site._hosts = lambda host: True
        self.application = self.upgrade

    def route(self, exchange: Exchange) -> Any:
        return self.work if exchange.head.method == b"CONNECT" else None

    async def upgrade(self, exchange: Exchange) -> None:
        exchange.upgrade(self.successor, 200)
        await Deferred()

    def test_connect(self) -> None:
        """A target of any form gets to the application, whatever Host repeats of it."""
        for target in (b"a.invalid:1", b"::1:1", b"pve:x::y:1"):
            for version in (b"1.0", b"1.1"):
                self.successor = Successor()
                wire = self.ask(b"CONNECT %s HTTP/%s\r\nHost: %s\r\n\r\nearly" % (target, version, target))
                self.assertEqual(self.seen[-1].head.target, target)
                self.assertEqual(self.successor.heard, b"early")
                self.assertFalse(wire.closed)
        self.assertEqual({status for status, _ in self.observed}, {200})

    def test_whole_urls(self) -> None:
        """Whole URLs lead nowhere, and never to what is served under their path."""
        for line in (b"GET http://a.invalid/x", b"POST http://169.254.169.254/x", b"GET a.invalid:80"):
            wire = self.ask(request(line))
            self.assertIn(statuses(wire.taken())[0], (400, 404, 405))
        self.assertEqual(self.seen, [])

    def test_not_of_others(self) -> None:
        """Where no proxy is, a whole URL is a bad request."""
        self.site.proxy = False
        wire = self.ask(request(b"GET http://a.invalid/x"))
        self.assertEqual(statuses(wire.taken()), [400])
