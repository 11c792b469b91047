"""Another protocol takes over a connection of HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from gateway import errors
from gateway.core.exchange import Exchange
from tests.core.test_channel import ChannelCase, Wire, request


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
            self.then = lambda fails=fails: fails  # type: ignore[misc]
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
