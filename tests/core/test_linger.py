from __future__ import annotations

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.exchange import Exchange
from gateway.core.web import GatewaySite


class LingerTests(SynchronousTestCase):
    """How long the rest of a refused body is read."""

    linger: float | None = 0.02

    def setUp(self) -> None:
        self.clock = Clock()
        site = GatewaySite(self.clock)
        site.routes.append(lambda exchange: self.refuse)
        self.channel = site.buildProtocol(None)  # type: ignore[arg-type]  # from nowhere
        self.transport = StringTransport()
        self.channel.makeConnection(self.transport)
        self.channel.dataReceived(b"PUT /x HTTP/1.1\r\nhost: a.invalid\r\ncontent-length: 1000000\r\n\r\n")

    async def refuse(self, exchange: Exchange) -> None:
        exchange.linger = self.linger
        raise errors.Forbidden("no more")

    def test_last_word(self) -> None:
        """The client is told why, even if it is to be cut off."""
        self.assertIn(b"HTTP/1.1 403 ", self.transport.value())
        self.assertIn(b"connection: close\r\n", self.transport.value())

    def test_cut(self) -> None:
        """An exchange that must not linger is cut in time, while the client goes on sending."""
        self.channel.dataReceived(bytes(1000))
        self.clock.advance(0.01)
        self.assertFalse(self.transport.disconnected)
        self.channel.dataReceived(bytes(1000))
        self.clock.advance(0.011)
        self.assertTrue(self.transport.disconnected)


class PatienceTests(LingerTests):
    """Without a word about it the limits of the listener hold."""

    linger = None

    def test_cut(self) -> None:
        """The rest is read for a while, and then the connection is closed in order."""
        self.clock.advance(1)
        self.channel.dataReceived(bytes(1000))
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(4.01)
        self.assertTrue(self.transport.disconnecting)
        self.assertFalse(self.transport.disconnected)
