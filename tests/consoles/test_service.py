"""Consoles from end to end in one process: real sockets, a real registry, and targets played by the test."""

from __future__ import annotations

from base64 import urlsafe_b64encode

from twisted.internet.task import deferLater

from gateway import errors
from gateway.consoles.websocket import SocketFactory, SocketLimits
from gateway.wire.websocket_frames import BINARY
from tests.consoles.service_case import HOST, KEY, MIB, ServiceCase
from tests.consoles.stage import ID, PAGE
from tests.consoles.test_console_socket import close
from tests.wire.test_websocket_frames import client


class ServiceTests(ServiceCase):
    """The service."""

    # -- bytes -----------------------------------------------------------------------------

    async def test_bytes(self) -> None:
        """Bytes pass both ways, what was there before the browser included, and are counted."""
        self.greeting = b"welcome"
        page, console = await self.open()
        page.send(b"typed")
        await self.until(lambda: page.said == b"welcome" and console.heard == b"typed")
        [session] = self.sessions.list()
        self.assertEqual((session.bytes_in, session.bytes_out), (5, 7))

    async def test_view_only(self) -> None:
        """Who may only look is heard by no serial line."""
        page, console = await self.open("serial", ops=["view"])
        page.send(b"typed")
        console.transport.write(b"shown")
        await self.until(lambda: page.said == b"shown")
        [session] = self.sessions.list()
        self.assertEqual((session.op, bytes(console.heard)), ("view", b""))

    async def test_stalled_browser(self) -> None:
        """A browser that takes nothing stops the console, and loses no byte of it."""
        page, console = await self.open()
        page.transport.pauseProducing()
        page.counting, total = True, 64 * MIB
        console.transport.write(bytes(total))
        session = self.sessions.list()[0]
        seen = -1
        while session.bytes_out != seen:
            seen = session.bytes_out
            await deferLater(self.reactor, 0.2)
        self.assertLess(seen, total // 2)
        page.transport.resumeProducing()
        await self.until(lambda: page.count > total)
        self.assertEqual(session.bytes_out, total)

    async def test_stalled_console(self) -> None:
        """A console that takes nothing stops the browser, and loses no byte of it."""
        page, console = await self.open()
        console.transport.pauseProducing()
        total, piece = 64 * MIB, bytes(64 * 1024)
        frame = client(BINARY, piece)
        for _ in range(total // len(piece)):
            page.transport.write(frame)
        session = self.sessions.list()[0]
        seen = -1
        while session.bytes_in != seen:
            seen = session.bytes_in
            await deferLater(self.reactor, 0.2)
        self.assertLess(seen, total // 2)
        console.transport.resumeProducing()
        await self.until(lambda: len(console.heard) == total)

    # -- the end ---------------------------------------------------------------------------

    async def test_browser_leaves(self) -> None:
        """The console gets what was typed last, and a good-bye; the session is closed."""
        page, console = await self.open()
        page.transport.write(client(BINARY, bytes(MIB)) + close(1000))
        await self.until(lambda: console.lost and page.lost)
        self.assertEqual((len(console.heard), console.clean, len(self.sessions)), (MIB, True, 0))

    async def test_browser_vanishes(self) -> None:
        """Nothing is left of either side when a browser is cut off."""
        page, console = await self.open()
        page.transport.abortConnection()
        await self.until(lambda: console.lost and not len(self.sessions))

    async def test_half_open(self) -> None:
        """A browser that vanished in silence is noticed by pings, whatever its console does."""
        limits = SocketLimits(ping_interval=0.3, pong_timeout=0.2)
        self.consoles.sockets = SocketFactory(self.reactor, limits)
        for flood in (0, 64 * MIB):
            page, console = await self.open()
            begun = self.reactor.seconds()
            page.transport.pauseProducing()
            console.transport.write(bytes(flood))
            await self.until(lambda: console.lost and not len(self.sessions))  # noqa: B023 (asked at once)
            took = self.reactor.seconds() - begun
            self.assertTrue(0.4 < took < 5.0, took)
            page.transport.resumeProducing()
            await self.until(lambda: page.lost)  # noqa: B023 (asked at once)

    async def test_console_ends(self) -> None:
        """The browser gets the rest, and a good-bye."""
        page, console = await self.open()
        console.transport.write(bytes(MIB))
        console.transport.loseConnection()
        await self.until(lambda: page.closed)
        self.assertEqual((len(page.said), page.closed), (MIB, (1000, "The console has ended")))
        page.transport.write(close(1000))
        await self.until(lambda: page.lost and not len(self.sessions))

    async def test_revoked(self) -> None:
        """In the very turn in which the ticket is revoked both sides are told, or cut."""
        page, console = await self.open()
        await self.registry.revoke(ID)
        self.assertEqual(len(self.sessions), 0)
        await self.until(lambda: page.closed and console.lost)
        self.assertEqual(page.closed, (4403, "Your access to this console was revoked"))
        page.send(b"more")
        page.transport.write(close(4403))
        await self.until(lambda: page.lost)
        self.assertEqual(bytes(console.heard), b"")

    async def test_expires(self) -> None:
        """A renewal extends the console that runs; at the end of the ticket both sides are told, or cut."""
        page, console = await self.open(timeout=3)
        await self.registry.renew(ID, 6)
        await deferLater(self.reactor, 3.5)
        console.transport.write(b"still")
        await self.until(lambda: page.said == b"still")
        await self.until(lambda: page.closed and console.lost)
        self.assertEqual(page.closed, (4401, "Your access to this console has expired"))
        self.assertEqual(len(self.sessions), 0)
        page.transport.write(close(4401))
        await self.until(lambda: page.lost)

    async def test_nonsense(self) -> None:
        """What breaks the rules of a console ends both sides."""
        self.greeting = b"RFB 003.008\n"
        await self.put("vnc", ops=["view"])
        page = await self.ask()
        await self.until(lambda: self.reached and self.reached[0].heard)
        self.reached[0].transport.write(b"\1\1")
        await self.until(lambda: len(self.reached[0].heard) == 13)
        self.reached[0].transport.write(bytes(4))
        await self.until(lambda: page.said == b"RFB 003.008\n")
        page.send(b"GET / HTTP/1.1\r\n\r\n")
        await self.until(lambda: page.closed and self.reached[0].lost)
        self.assertEqual((page.closed or (0, ""))[0], 4400)

    # -- the beginning ---------------------------------------------------------------------

    async def test_out_of_reach(self) -> None:
        """The use of a ticket is given back when nobody listens there; nothing is accepted."""
        await self.put(uses=1, url=f"tcp://{HOST}:1")
        for _ in range(2):
            page = await self.ask()
            await self.until(lambda: page.lost)  # noqa: B023 (asked at once)
            self.assertEqual(page.status, 502)
        self.assertEqual((len(self.sessions), self.reached), (0, []))

    async def test_once(self) -> None:
        """Of two that come at once with a one-time ticket one gets a console; the other reaches nothing."""
        await self.put(uses=1)
        pages = [await self.ask(), await self.ask()]
        await self.until(lambda: all(page.head for page in pages))
        self.assertEqual(sorted(page.status for page in pages), [101, 403])
        self.assertEqual(len(self.reached), 1)

    async def test_revoked_before(self) -> None:
        """A ticket that is revoked while the console does not answer ends that at once."""
        await self.put("vnc", secret="x")
        page = await self.ask()
        await self.until(lambda: self.reached)
        await self.registry.revoke(ID)
        await self.until(lambda: page.lost and self.reached[0].lost)
        self.assertEqual((page.status, len(self.sessions)), (403, 0))

    async def test_leaves_before(self) -> None:
        """A browser that does not wait for a console that does not answer leaves nothing behind."""
        await self.put("vnc", secret="x", uses=1)
        page = await self.ask()
        await self.until(lambda: self.reached)
        page.transport.abortConnection()
        await self.until(lambda: self.reached[0].lost and not len(self.sessions))

    async def test_silent(self) -> None:
        """A console that does not answer is given up in time."""
        self.consoles.login_timeout = 0.1
        await self.put("vnc", secret="x", uses=1)
        for _ in range(2):
            page = await self.ask()
            await self.until(lambda: page.lost)  # noqa: B023 (asked at once)
            self.assertEqual(page.status, 504)
        await self.until(lambda: all(console.lost for console in self.reached))

    async def test_weaker(self) -> None:
        """With a password a console without one is refused: nobody knows who that is."""
        self.greeting = b"RFB 003.008\n\1\1"
        await self.put("vnc", secret="x")
        page = await self.ask()
        await self.until(lambda: page.lost and self.reached[0].lost)
        self.assertEqual(page.status, 502)
        self.assertEqual(len(self.reached), 1)
        self.assertNotIn(b"\1", self.reached[0].heard)

    async def test_told(self) -> None:
        """A page of ours sees why it is refused; a foreign one does not, and neither reaches anything."""
        item = urlsafe_b64encode(b"nobody-knows-this-ticket").rstrip(b"=")
        offer = {"Sec_WebSocket_Protocol": b"binary, ticket." + item, "Origin": PAGE.encode()}
        page = await self.ask("/console/", **offer)
        await self.until(lambda: page.closed)
        self.assertEqual(page.closed, (4403, errors.NoTicket.default))
        self.assertNotIn(item, page.head)
        page.transport.write(close(4403))
        await self.until(lambda: page.lost)
        self.assertEqual(self.refusals, ["unknown"])
        other = await self.ask("/console/", **{**offer, "Origin": b"https://evil.invalid"})
        await self.until(lambda: other.lost)
        self.assertEqual((other.status, self.reached), (403, []))

    async def test_idle(self) -> None:
        """A console ends on which nothing happens, and only that."""
        self.consoles.idle_timeout = 1.5
        page, console = await self.open()
        for _ in range(8):
            await deferLater(self.reactor, 0.2)
            page.send(KEY)
        self.assertIsNone(page.closed)
        await self.until(lambda: page.closed and console.lost)
        self.assertEqual((page.closed or (0, ""))[0], 4408)
