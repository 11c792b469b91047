"""Consoles from end to end in one process: real sockets, a real registry, and targets played by the test."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from struct import pack
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway import errors
from gateway.consoles.access import Access
from gateway.consoles.bridge import Consoles
from gateway.consoles.origin import Origins
from gateway.consoles.service import ConsoleService
from gateway.consoles.targets import Reach
from gateway.consoles.websocket import SocketFactory
from gateway.core.clock import wall
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.core.sessions import SessionTable
from gateway.core.signers import load_signers
from gateway.core.tickets import MemoryRegistry
from gateway.core.tokens import TokenVerifier
from gateway.core.web import GatewaySite
from gateway.wire.ticket_json import grant_from
from gateway.wire.websocket_frames import BINARY, CLOSE
from tests.consoles.stage import ID, PAGE
from tests.consoles.test_console_socket import close, frames, hello
from tests.support import ReactorTestCase
from tests.wire.test_websocket_frames import client

HOST = "127.0.0.1"
MIB = 1 << 20
KEY = pack(">BBxxI", 4, 1, 0x61)


class Page(Protocol):
    """A browser, as far as bytes go."""

    transport: Any

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.head = b""
        self.heard = bytearray()
        self.count = 0
        self.counting = False
        self.lost = False

    def connectionMade(self) -> None:
        self.transport.write(self.request)

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        if not self.counting:
            self.heard += data
        if not self.head and b"\r\n\r\n" in self.heard:
            self.head, _, rest = bytes(self.heard).partition(b"\r\n\r\n")
            self.heard[:] = rest

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True

    @property
    def status(self) -> int:
        return int(self.head.split()[1]) if self.head else 0

    @property
    def said(self) -> bytes:
        """The bytes of the console."""
        return b"".join(content for opcode, content in frames(self.heard) if opcode == BINARY)

    @property
    def closed(self) -> tuple[int, str] | None:
        """The close frame."""
        found = [content for opcode, content in frames(self.heard) if opcode == CLOSE]
        return found[0] if found else None

    def send(self, data: bytes) -> None:
        self.transport.write(client(BINARY, data))


class Console(Protocol):
    """A connection to the target."""

    transport: Any

    def __init__(self, greeting: bytes) -> None:
        self.greeting = greeting
        self.heard = bytearray()
        self.lost = False
        self.clean = False

    def connectionMade(self) -> None:
        self.transport.write(self.greeting)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self.clean = reason.check(type(connectionDone.value)) is not None


class ServiceTests(ReactorTestCase):
    """The service."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.registry = MemoryRegistry(self.reactor, wall)
        self.addCleanup(self.registry.stop)
        sessions = self.sessions = SessionTable(self.reactor, wall, self.registry)
        tokens = TokenVerifier(load_signers(), wall=wall, started=wall())
        access = Access(self.registry, tokens, sessions, Origins.of([PAGE]), self.reactor, wall)
        dialer = Dialer(self.reactor, Policy([parse_rule("*://127.0.0.0/8:*")], [], []))
        self.consoles = Consoles(access, Reach(dialer), SocketFactory(self.reactor), self.reactor)
        self.refusals: list[str] = []
        service = ConsoleService(self.consoles, lambda peer, error: self.refusals.append(error.reason))
        self.site = GatewaySite(self.reactor)
        self.site.routes.append(service.route)
        self.port = self.listen(self.site)
        self.greeting = b""
        self.reached: list[Console] = []
        target = Factory()
        target.buildProtocol = self._reached  # type: ignore[method-assign, assignment]
        self.target = self.listen(target)

    def _reached(self, address: object) -> Console:
        console = Console(self.greeting)
        self.reached.append(console)
        self.addCleanup(self._cut, console)
        return console

    def _cut(self, line: Any) -> Deferred[None] | None:
        if line.lost:
            return None
        line.transport.abortConnection()
        return Deferred.fromCoroutine(self.until(lambda: line.lost and not self.site._channels))

    def listen(self, factory: Any) -> int:
        port: Any = self.reactor.listenTCP(0, factory, interface=HOST)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def until(self, true: Callable[[], object]) -> None:
        while not true():
            await deferLater(self.reactor, 0.005)

    async def put(self, scheme: str = "tcp", **members: Any) -> None:
        ticket = {"uuid": ID, "kind": "console", "url": f"{scheme}://{HOST}:{self.target}", "timeout": 300}
        await self.registry.add(grant_from({**ticket, "ops": ["view", "control"], **members}))

    async def ask(self, path: str = f"/console/{ID}", **fields: bytes) -> Page:
        endpoint = HostnameEndpoint(self.reactor, HOST, self.port)
        page: Page = await connectProtocol(endpoint, Page(hello(path.encode(), **fields)))
        self.addCleanup(self._cut, page)
        return page

    async def open(self, scheme: str = "tcp", **members: Any) -> tuple[Page, Console]:
        await self.put(scheme, **members)
        page = await self.ask()
        await self.until(lambda: page.head)
        self.assertEqual(page.status, 101, page.heard)
        return page, self.reached[-1]

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
        page, console = await self.open(timeout=1)
        await self.registry.renew(ID, 2)
        await deferLater(self.reactor, 1.5)
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
            await self.until(lambda page=page: page.lost)  # type: ignore[misc]
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
            await self.until(lambda page=page: page.lost)  # type: ignore[misc]
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
        self.consoles.idle_timeout = 0.4
        page, console = await self.open()
        for _ in range(6):
            await deferLater(self.reactor, 0.1)
            page.send(KEY)
        self.assertIsNone(page.closed)
        await self.until(lambda: page.closed and console.lost)
        self.assertEqual((page.closed or (0, ""))[0], 4408)
