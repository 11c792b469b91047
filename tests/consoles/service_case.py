"""The service of consoles in one process: real sockets, a real registry, and targets played by the test."""

from __future__ import annotations

from struct import pack
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway.consoles.access import Access
from gateway.consoles.bridge import Consoles
from gateway.consoles.compose import recordings
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
from tests.consoles.test_console_socket import frames, hello
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


class ServiceCase(ReactorTestCase):
    """A service of consoles, its registry and sessions, a browser's side and a target's.

    :ivar trail: what was audited of recordings.
    :ivar history: and of sessions.
    """

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.trail: list[tuple[str, dict[str, object]]] = []
        self.history: list[tuple[str, dict[str, object]]] = []
        self.registry = MemoryRegistry(self.reactor, wall)
        self.addCleanup(self.registry.stop)
        sessions = self.sessions = SessionTable(self.reactor, wall, self.registry, self._tell)
        tokens = TokenVerifier(load_signers(), wall=wall, started=wall())
        access = Access(self.registry, tokens, sessions, Origins.of([PAGE]), self.reactor, wall)
        dialer = Dialer(self.reactor, Policy([parse_rule("*://127.0.0.0/8:*")], [], []))
        self.recordings = recordings(self.reactor, wall, self._audit)
        self.consoles = Consoles(
            access, Reach(dialer), SocketFactory(self.reactor), self.reactor, self.recordings
        )
        self.refusals: list[str] = []
        service = ConsoleService(self.consoles, lambda peer, error: self.refusals.append(error.reason))
        self.site = GatewaySite(self.reactor)
        self.site.routes.append(service.route)
        self.port = self.listen(self.site)
        self.greeting = b""
        self.reached: list[Console] = []
        target = Factory()
        target.buildProtocol = self._reached  # type: ignore[method-assign, assignment]  # it counts them
        self.target = self.listen(target)

    def _audit(self, event: str, /, **fields: object) -> None:
        self.trail.append((event, fields))

    def _tell(self, event: str, /, **fields: object) -> None:
        self.history.append((event, fields))

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

    async def pause(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds)

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
