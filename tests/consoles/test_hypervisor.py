"""Consoles behind hypervisors: streams and sockets that the test holds the other end of."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.consoles.hypervisor import HypervisorReach, StreamTransport
from gateway.consoles.line import LAST_WORDS, Line
from gateway.core.policy import Policy, parse_rule
from gateway.wire.hypervisor_url import ConsolePlace
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.websocket_frames import BINARY
from tests.consoles import test_shared_bridge as shared
from tests.consoles.service_case import HOST, MIB, Console, Page, ServiceCase
from tests.consoles.stage import ID
from tests.consoles.test_console_socket import close
from tests.rpc.fake_stream import FakeStream
from tests.wire.rfb_peers import Server
from tests.wire.test_websocket_frames import client

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
LINE, SCREEN = f"libvirt://lab/{UUID}/console", f"libvirt://lab/{UUID}/graphics/0"


class _Keeper(Protocol):
    """Keeps what it hears, and how that ended."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost: list[object] = []

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(type(reason.value))


class _Silent(_Keeper):
    """Does not read at first."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.pauseProducing()


class TransportTests(SynchronousTestCase):
    """A stream as a transport."""

    def setUp(self) -> None:
        self.clock = Clock()

    def start(self, stream: FakeStream, protocol: _Keeper | None = None) -> tuple[_Keeper, StreamTransport]:
        keeper = protocol or _Keeper()
        transport = StreamTransport(stream, self.clock)
        transport.start(keeper)
        return keeper, transport

    def test_both_ways(self) -> None:
        """Bytes pass, and a producer is stopped by the stream."""
        stream = FakeStream(b"SeaBIOS")
        keeper, transport = self.start(stream)
        transport.writeSequence([b"ro", b"ot"])
        self.assertEqual((keeper.heard, stream.told), (b"SeaBIOS", b"root"))
        typist = FakeStream()
        transport.registerProducer(typist, True)
        stream.full(True)
        self.assertFalse(typist.flowing)
        stream.full(False)
        self.assertTrue(typist.flowing)

    def test_silent_at_first(self) -> None:
        """A protocol that does not read at first gets nothing, also of what is there already."""
        stream = FakeStream(b"SeaBIOS", ends=True)
        keeper, transport = self.start(stream, _Silent())
        self.assertEqual((keeper.heard, stream.flowing), (b"", False))
        transport.resumeProducing()
        self.clock.advance(0)
        self.assertEqual((keeper.heard, keeper.lost), (b"SeaBIOS", [ConnectionDone]))

    def test_last_words(self) -> None:
        """Who hangs up is done when the machine has all; nothing is written any more."""
        stream = FakeStream()
        stream.confirms = False
        keeper, transport = self.start(stream)
        transport.write(b"bye")
        transport.loseConnection()
        transport.write(b"more")
        transport.loseConnection()
        self.clock.advance(1)
        self.assertEqual(
            (stream.told, stream.finished, stream.closed, keeper.lost), (b"bye", True, False, [])
        )
        stream.says(b"bye yourself")
        stream.confirm()
        self.assertTrue(stream.closed)
        self.clock.advance(0)
        self.assertEqual((keeper.heard, keeper.lost), (b"bye yourself", [ConnectionDone]))

    def test_part(self) -> None:
        """A machine that never takes the last words is cut off in the end."""
        for confirms in (False, True):
            stream, line = FakeStream(), Line()
            stream.confirms = confirms
            StreamTransport(stream, self.clock).start(line)
            line.part(self.clock)
            self.clock.advance(LAST_WORDS - 0.1)
            self.assertEqual(stream.closed, confirms)
            self.clock.advance(0.2)
            self.assertEqual((stream.closed, line.inbox.over), (True, True))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cut(self) -> None:
        """Who cuts is heard of no more, and is told so in a turn of its own, once."""
        stream = FakeStream()
        keeper, transport = self.start(stream)
        transport.abortConnection()
        self.assertEqual((stream.over, stream.closed, keeper.lost), ("aborted", True, []))
        transport.abortConnection()
        transport.loseConnection()
        transport.pauseProducing()
        transport.resumeProducing()
        transport.registerProducer(FakeStream(), True)
        transport.unregisterProducer()
        self.clock.advance(0)
        self.assertEqual((keeper.heard, keeper.lost), (b"", [ConnectionAborted]))

    def test_breaks(self) -> None:
        """A stream that breaks is a connection that is lost."""
        stream = FakeStream()
        keeper, _ = self.start(stream)
        stream.breaks(LibvirtError(38))
        self.clock.advance(0)
        self.assertEqual((stream.closed, keeper.lost), (True, [ConnectionLost]))

    def test_over_at_once(self) -> None:
        """So is one that broke before anybody had it."""
        stream = FakeStream()
        stream.breaks(errors.Interrupted(maybe_executed=False))
        keeper, _ = self.start(stream)
        self.clock.advance(0)
        self.assertEqual(keeper.lost, [ConnectionLost])


class Lab:
    """A hypervisor with one machine.

    :ivar asked: what it was asked for.
    :ivar streams: to the serial line.
    :ivar fails: what the next call fails with.
    :ivar slow: calls are not answered.
    """

    def __init__(self, screen: Callable[[], int]) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.streams: list[FakeStream] = []
        self.fails: errors.GatewayError | None = None
        self.slow = False
        self._screen = screen

    async def open_line(self, place: ConsolePlace, *, principal: str, force: bool) -> FakeStream:
        await self._ask(place, principal, force)
        self.streams.append(FakeStream())
        return self.streams[-1]

    async def open_graphics(self, place: ConsolePlace, *, principal: str) -> int:
        await self._ask(place, principal)
        return self._screen()

    async def _ask(self, *words: object) -> None:
        self.asked.append(words)
        if self.slow:
            await Deferred()
        if self.fails is not None:
            raise self.fails


class _LabCase(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.lab = Lab(self.screen)
        behind = HypervisorReach(self.lab, self.reactor)
        self.consoles.reach = evolve(self.consoles.reach, hypervisors=behind)
        self.addCleanup(self.gone)

    async def gone(self) -> None:
        """Nothing is left of any session or stream."""
        await self.until(lambda: not self.site._channels and not len(self.sessions))
        await self.until(lambda: all(stream.closed for stream in self.lab.streams))

    def peer(self) -> Console:
        return Console(self.greeting)

    def screen(self) -> int:
        """The descriptor of a socket to a VNC server."""
        ours, theirs = socket.socketpair()
        self.adopt(ours)
        return theirs.detach()

    def adopt(self, ours: socket.socket) -> None:
        machine = self.peer()
        self.reached.append(machine)
        self.addCleanup(self._cut, machine)
        factory = Factory()
        factory.buildProtocol = lambda address: machine  # type: ignore[method-assign, assignment]  # this one and no other
        with ours:
            self.reactor.adoptStreamConnection(ours.fileno(), ours.family, factory)

    async def enter(self, url: str, **members: Any) -> Page:
        await self.put(url=url, **members)
        page = await self.ask()
        await self.until(lambda: page.head)
        self.assertEqual(page.status, 101, page.heard)
        return page

    async def line(self, **members: Any) -> tuple[Page, FakeStream]:
        page = await self.enter(LINE, **members)
        return page, self.lab.streams[-1]

    async def refused(self, status: int, **members: Any) -> None:
        await self.put(**{"url": LINE, "uses": 1, **members})
        for _ in range(2):
            page = await self.ask()
            await self.until(lambda: page.lost)  # noqa: B023 (asked at once)
            self.assertEqual(page.status, status, page.heard)
        self.assertEqual((len(self.sessions), self.lab.streams), (0, []))


class LineTests(_LabCase):
    """Serial lines."""

    async def test_bytes(self) -> None:
        """Bytes pass both ways and are counted, as on any other line."""
        page, stream = await self.line(principal="alice")
        page.send(b"typed")
        stream.says(b"login: ")
        await self.until(lambda: page.said == b"login: " and stream.told == b"typed")
        [session] = self.sessions.list()
        self.assertEqual((session.bytes_in, session.bytes_out), (5, 7))
        self.assertEqual(session.target, f"libvirt://lab/{UUID}")
        self.assertEqual(self.lab.asked, [(ConsolePlace("lab", UUID), "alice", False)])

    async def test_asked(self) -> None:
        """The device is the url's; whoever has the line is thrown out only by those who may take over."""
        first = await self.enter(f"{LINE}/serial1", ops=["takeover"])
        first.transport.abortConnection()
        await self.until(lambda: first.lost)
        await self.enter(f"{LINE}/serial1", ops=["control"])
        place = ConsolePlace("lab", UUID, "serial1")
        self.assertEqual(self.lab.asked, [(place, "", True), (place, "", False)])

    async def test_view_only(self) -> None:
        """Who may only look is not heard."""
        page, stream = await self.line(ops=["view"])
        page.send(b"typed")
        stream.says(b"shown")
        await self.until(lambda: page.said == b"shown")
        self.assertEqual(stream.told, b"")

    async def test_stalled_browser(self) -> None:
        """A browser that takes nothing stops the stream, and loses no byte of it."""
        page, stream = await self.line()
        page.transport.pauseProducing()
        page.counting, total = True, 16 * MIB
        for _ in range(total // 65536):
            stream.says(bytes(65536))
        await self.until(lambda: not stream.flowing)
        [session] = self.sessions.list()
        self.assertLess(session.bytes_out, total // 2)
        page.transport.resumeProducing()
        await self.until(lambda: page.count > total)
        self.assertEqual(session.bytes_out, total)

    async def test_stalled_machine(self) -> None:
        """A machine that takes nothing stops the browser, and loses no byte of it."""
        page, stream = await self.line()
        stream.full(True)
        total = 6 * MIB
        for _ in range(total // 65536):
            page.transport.write(client(BINARY, bytes(65536)))
        await self.pause(0.3)
        self.assertLess(len(stream.told), total // 2)
        stream.full(False)
        await self.until(lambda: len(stream.told) == total)

    async def test_browser_leaves(self) -> None:
        """The machine gets what was typed last, and a good-bye."""
        page, stream = await self.line()
        page.transport.write(client(BINARY, bytes(MIB)) + close(1000))
        await self.until(lambda: stream.closed and page.lost)
        self.assertEqual((len(stream.told), stream.over), (MIB, "finished"))

    async def test_machine_ends(self) -> None:
        """The browser gets the rest, and a good-bye, whether the line ends or breaks."""
        for ends in (FakeStream.hangs_up, lambda it: it.breaks(LibvirtError(38))):
            page, stream = await self.line()
            stream.says(bytes(1000))
            ends(stream)
            await self.until(lambda: page.closed)  # noqa: B023 (asked at once)
            self.assertEqual((len(page.said), page.closed), (1000, (1000, "The console has ended")))
            page.transport.write(close(1000))
            await self.until(lambda: page.lost)  # noqa: B023 (asked at once)

    async def test_revoked(self) -> None:
        """In the very turn in which the ticket is revoked the stream is cut, and the browser told."""
        page, stream = await self.line()
        await self.registry.revoke(ID)
        self.assertEqual((stream.over, stream.closed, len(self.sessions)), ("aborted", True, 0))
        await self.until(lambda: page.closed)
        self.assertEqual(page.closed, (4403, "Your access to this console was revoked"))
        page.send(b"more")
        page.transport.write(close(4403))
        await self.until(lambda: page.lost)
        self.assertEqual(stream.told, b"")

    async def test_revoked_before(self) -> None:
        """A ticket that is revoked while the hypervisor does not answer ends that at once."""
        self.lab.slow = True
        await self.put(url=LINE)
        page = await self.ask()
        await self.until(lambda: self.lab.asked)
        await self.registry.revoke(ID)
        await self.until(lambda: page.lost)
        self.assertEqual((page.status, len(self.sessions)), (403, 0))

    async def test_idle(self) -> None:
        """A line ends on which nothing happens, and only that."""
        self.consoles.idle_timeout = 1.5
        page, stream = await self.line()
        for _ in range(5):
            await self.pause(0.4)
            stream.says(b".")
        self.assertIsNone(page.closed)
        await self.until(lambda: page.closed and stream.closed)
        self.assertEqual((page.closed or (0, ""))[0], 4408)

    async def test_refused(self) -> None:
        """What the hypervisor says is the answer; the use of the ticket is given back."""
        self.lab.fails = errors.Conflict("Somebody else has this console")
        await self.refused(409)

    async def test_not_served(self) -> None:
        """Where no hypervisor is served, none can be named."""
        self.consoles.reach = evolve(self.consoles.reach, hypervisors=None)
        await self.refused(501)
        self.assertEqual(self.lab.asked, [])

    async def test_recorded(self) -> None:
        """A serial line is recorded like any other."""
        kept = Path(self.mktemp()).absolute()
        self.recordings.adopt(kept, MIB)
        self.recordings.startService()
        self.addCleanup(self.recordings.stopService)
        page, stream = await self.line(record=True)
        stream.says(b"login: ")
        await self.until(lambda: page.said)
        page.transport.abortConnection()
        await self.until(lambda: len(self.trail) == 2)
        [file] = kept.glob("*.cast")
        self.assertIn(b"login: ", file.read_bytes())


class ScreenTests(_LabCase):
    """Screens."""

    async def test_bytes(self) -> None:
        """A screen is a VNC console like any other."""
        self.greeting = b"RFB 003.008\n"
        page = await self.enter(SCREEN)
        page.send(b"RFB 003.008\n")
        await self.until(lambda: self.reached[0].heard == page.said == self.greeting)
        self.assertEqual(self.lab.asked, [(ConsolePlace("lab", UUID, None, 0), "")])
        [session] = self.sessions.list()
        self.assertEqual(session.target, f"libvirt://lab/{UUID}")

    async def test_secret(self) -> None:
        """Whatever password the ticket has, a screen behind a hypervisor is open to us."""
        self.greeting = b"RFB 003.008\n"
        page = await self.enter(SCREEN, secret="sekret")
        await self.until(lambda: page.said == self.greeting)

    async def test_stalled_browser(self) -> None:
        """A browser that takes nothing stops the machine, and loses no byte of it."""
        page = await self.enter(SCREEN)
        page.transport.pauseProducing()
        page.counting, total = True, 16 * MIB
        self.reached[0].transport.write(bytes(total))
        await self.pause(0.5)
        [session] = self.sessions.list()
        self.assertLess(session.bytes_out, total // 2)
        page.transport.resumeProducing()
        await self.until(lambda: page.count > total)

    async def test_ends(self) -> None:
        """Nobody keeps the socket: who leaves, or is revoked, is gone for the machine."""
        page = await self.enter(SCREEN)
        page.transport.abortConnection()
        await self.until(lambda: self.reached[0].lost)
        page = await self.enter(SCREEN)
        await self.registry.revoke(ID)
        await self.until(lambda: self.reached[1].lost and page.closed)
        page.transport.write(close(4403))

    async def test_tcp(self) -> None:
        """A socket may be one of TCP as well."""
        self.lab._screen = lambda: socket.create_connection((HOST, self.target)).detach()
        page = await self.enter(SCREEN)
        page.send(b"x")
        await self.until(lambda: self.reached and self.reached[0].heard == b"x")

    async def test_no_socket(self) -> None:
        """A descriptor of anything else is refused, and closed."""
        given: list[int] = []
        self.sockets: set[int] = set()

        def pipe() -> int:
            reading, writing = os.pipe()
            given.append(writing)
            return reading

        def datagrams() -> int:
            one, other = socket.socketpair(type=socket.SOCK_DGRAM)
            given.append(one.detach())
            self.sockets.add(given[-1])
            return other.detach()

        for make in (pipe, datagrams, lambda: socket.socket().detach()):
            self.lab._screen = make
            await self.refused(502, url=SCREEN)
        self.assertEqual(len(given), 4)
        for other in given:
            # The other end knows whether there is a last one.
            with socket.socket(fileno=other) if other in self.sockets else os.fdopen(other, "wb", 0) as end:
                self.assertRaises(OSError, end.send if isinstance(end, socket.socket) else end.write, b"x")


class SharedScreenTests(_LabCase, shared.SharedTests):
    """Screens that several look at: all that is promised of any other shared console."""

    def peer(self) -> Console:
        return shared.Machine(Server(types=self.types, answers=(bytes(16),)), self.silent)

    async def ticket(self, uuid: str = ID, **members: Any) -> str:
        return await super().ticket(uuid, url=SCREEN, **members)

    async def test_not_reached(self) -> None:
        """Of a screen that is refused us nothing is left."""
        kept = self.keep()
        self.lab.fails = errors.UpstreamFailed()
        await self.ticket(record=True)
        self.assertEqual((await self.arrive()).status, 502)
        await self.until(lambda: not list(kept.iterdir()))

    async def test_other_secret(self) -> None:
        """A password means nothing there, so that it parts nobody."""
        await self.ticket()
        await self.ticket(shared.OTHER, secret="wrong")
        await self.join()
        await self.join(shared.OTHER)
        self.assertEqual(len(self.reached), 1)

    async def test_policy(self) -> None:
        """The rules of the policy say nothing of hypervisors, which only the configuration names."""
        await self.ticket()
        await self.join()
        self.consoles.reach.dialer.policy = Policy([], [parse_rule("*://*:*")], [])
        late = await self.arrive()
        self.assertEqual((late.status, len(self.reached)), (101, 1))
