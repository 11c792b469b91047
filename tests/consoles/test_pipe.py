"""The websocket that carries another protocol, over a wire in memory; both ways to frame."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from gateway import errors
from gateway.consoles.pipe import Pipe
from gateway.consoles.websocket import ConsoleSocket
from gateway.wire.websocket_frames import BINARY, CLOSE
from tests.consoles.test_console_socket import SocketCase, close
from tests.core.test_channel import Wire, statuses
from tests.support import Producer
from tests.wire.test_websocket_frames import client

TOKEN = b"the-token"
PEER = "192.0.2.1"


class Carried(Protocol):
    """What a websocket carries.

    :ivar lost: how often it heard of its end.
    """

    transport: Any

    def __init__(self) -> None:
        self.reason = ""
        self.heard = b""
        self.lost = 0
        self.producer = Producer()

    def connectionMade(self) -> None:
        self.transport.registerProducer(self.producer, True)
        self.transport.write(b"welcome")

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost += 1

    def abort(self, reason: str) -> None:
        self.reason = reason
        self.transport.abortConnection()

    def close(self, reason: str) -> None:
        self.reason = reason
        self.transport.loseConnection()


class PipeTests(SocketCase):
    """Who gets one, what passes, and how it ends."""

    def setUp(self) -> None:
        super().setUp()
        self.refusals: list[tuple[str, str]] = []
        self.site.refused = lambda peer, error: self.refusals.append((peer, error.reason))
        self.asked: list[tuple[str, str]] = []
        self.proven: list[object] = []
        self.site.proven = self.proven.append
        self.shown: list[str] = []
        self.carried: list[Carried] = []
        pipe = Pipe(self.clock, self.admit, self.build)
        pipe.sockets.protocol = self.kind
        self.site.routes[:] = [pipe.route]

    async def admit(self, token: str, peer: str) -> None:
        self.asked.append((token, peer))
        if token != TOKEN.decode():
            raise errors.Unauthenticated(reason="unknown")

    def build(self, token: str) -> Carried:
        self.shown.append(token)
        self.carried.append(Carried())
        return self.carried[-1]

    def enter(self, data: bytes = b"", path: bytes = b"/libvirt", **fields: bytes) -> Wire:
        """Ask for one, with a good token."""
        return self.connect(data, path=path, **{"Authorization": b"Bearer " + TOKEN, **fields})

    # -- who gets one ----------------------------------------------------------------------

    def test_admitted(self) -> None:
        """Who shows a good token is known by it and by the address, and is a stranger no more."""
        wire = self.enter(path=b"/libvirt?x=y")
        self.assertEqual(statuses(self.head + b"\r\n"), [101])
        self.assertEqual((self.asked, self.shown), ([(TOKEN.decode(), PEER)], [TOKEN.decode()]))
        self.assertEqual(len(self.proven), 1)
        self.assertEqual(self.carried[0].transport.getPeer().host, PEER)
        self.assertEqual(self.sent(wire), [(BINARY, b"welcome")])

    def test_refused(self) -> None:
        """Nothing is built for others: without a token, with one that is no good, from a page."""
        bad = b"Bearer " + b"0" * 20
        for status, reason, fields in (
            (401, "unknown", {"Authorization": bad}),
            (400, "malformed", {"Authorization": b"Basic " + TOKEN}),
            (403, "origin", {"Origin": b"https://page.invalid"}),
            (403, "origin", {"Origin": b"null"}),
            (403, "origin", {"Origin": b"https://page.invalid", "Authorization": bad}),
        ):
            self.refusals.clear()
            self.enter(**fields)
            self.assertEqual(statuses(self.head + b"\r\n"), [status], fields)
            self.assertEqual(self.refusals, [(PEER, reason)])
        wire = Wire(self.site.buildProtocol(IPv4Address("TCP", PEER, 1)))
        wire.receive(
            b"GET /libvirt HTTP/1.1\r\nHost: a.invalid\r\nAuthorization: Bearer " + TOKEN + b"\r\n\r\n"
        )
        self.assertEqual(statuses(wire.sent), [426])
        wire.end()
        for path in (b"/libvirt?token=" + TOKEN, b"/libvirt"):
            self.connect(path=path, Cookie=b"__Host-gwc=" + TOKEN)
            self.assertEqual(statuses(self.head + b"\r\n"), [403])
        self.assertEqual((self.carried, self.proven), ([], []))

    def test_elsewhere(self) -> None:
        """Other addresses are not ours."""
        for path in (b"/libvirt/", b"/libvirtd", b"/x/libvirt", b"/LIBVIRT"):
            self.enter(path=path)
            self.assertEqual(statuses(self.head + b"\r\n"), [404], path)
        self.assertEqual(self.asked, [])

    # -- what passes -----------------------------------------------------------------------

    def test_bytes(self) -> None:
        """Bytes pass both ways, those that came with the request after the connection was made."""
        wire = self.enter(client(BINARY, b"early"))
        carried = self.carried[0]
        self.assertEqual(carried.heard, b"early")
        wire.receive(client(BINARY, b", and ") + client(BINARY, b"late"))
        self.assertEqual(carried.heard, b"early, and late")
        carried.transport.write(b"answer")
        self.assertEqual(self.sent(wire), [(BINARY, b"welcome"), (BINARY, b"answer")])

    def test_flow(self) -> None:
        """Each side makes the other wait."""
        wire = self.enter()
        carried = self.carried[0]
        wire.producer.pauseProducing()
        wire.producer.resumeProducing()
        self.assertEqual(carried.producer.told, ["pause", "resume"])
        carried.transport.pauseProducing()
        wire.receive(client(BINARY, b"waits"))
        self.assertEqual((wire.reading, carried.heard), (False, b""))
        carried.transport.resumeProducing()
        wire.receive(b"")
        self.assertEqual(carried.heard, b"waits")
        carried.transport.unregisterProducer()
        wire.producer.pauseProducing()
        self.assertEqual(carried.producer.told, ["pause", "resume"])

    # -- the end ---------------------------------------------------------------------------

    def test_left(self) -> None:
        """A client that hangs up, with or without a good-bye, is told of once."""
        for goodbye in (close(1000), b""):
            wire = self.enter(goodbye)
            wire.end(clean=False)
            self.clock.advance(1)
            self.assertEqual(self.carried.pop().lost, 1)

    def test_early_goodbye(self) -> None:
        """Whoever comes and goes in one packet was heard, and is told of once."""
        wire = self.enter(client(BINARY, b"hi") + close(1000))
        self.assertEqual(self.carried[0].heard, b"hi")
        wire.end()
        self.assertEqual(self.carried[0].lost, 1)

    def test_closed(self) -> None:
        """What was written is sent before the good-bye, and nothing that comes is heard any more."""
        for reason, text in (("closed", ""), ("upstream", "The connection to the hypervisor was lost")):
            wire = self.enter()
            carried = self.carried.pop()
            carried.transport.write(b"last")
            carried.close(reason)
            self.assertTrue(carried.transport.disconnecting)
            sent = [(BINARY, b"welcome"), (BINARY, b"last"), (CLOSE, (1000, text))]
            self.assertEqual(self.sent(wire), sent)
            wire.receive(client(BINARY, b"more") + close(1000))
            wire.end()
            self.assertEqual((carried.heard, carried.lost), (b"", 1))

    def test_aborted(self) -> None:
        """Who keeps up is told why; what is behind us is let go at once, not when the client has answered."""
        for reason, told in (
            ("revoked", (4403, "The ticket was revoked")),
            ("expired", (4401, "The ticket has expired")),
            ("drained", (4503, "The gateway is being restarted")),
            ("whatever", (4403, "The gateway has hung up")),
        ):
            wire = self.enter()
            carried = self.carried.pop()
            carried.abort(reason)
            self.assertEqual(carried.lost, 0)
            self.clock.advance(0)
            self.assertEqual(carried.lost, 1)
            carried.transport.write(b"more")
            wire.receive(client(BINARY, b"more"))
            self.assertEqual(self.sent(wire), [(BINARY, b"welcome"), (CLOSE, told)])
            self.assertEqual((carried.heard, wire.aborted), (b"", False))
            # A client that does not answer is not waited for.
            self.clock.advance(self.limits.close_timeout)
            self.clock.advance(self.limits.close_timeout)
            self.assertTrue(wire.aborted)
            wire.end(clean=False)
            self.assertEqual(carried.lost, 1)

    def test_aborted_deaf(self) -> None:
        """Who takes nothing is cut with what waits for it; a good-bye on its way changes nothing."""
        for closes in (False, True):
            wire = self.enter()
            carried = self.carried.pop()
            if closes:
                carried.close("upstream")
            else:
                wire.producer.pauseProducing()
            carried.abort("revoked")
            self.assertTrue(wire.aborted)
            self.clock.advance(0)
            wire.end(clean=False)
            self.assertEqual(carried.lost, 1)

    def test_aborted_and_gone(self) -> None:
        """A connection that is lost in the turn in which it is cut is told of once."""
        wire = self.enter()
        self.carried[0].abort("revoked")
        wire.end()
        self.clock.advance(0)
        self.assertEqual(self.carried[0].lost, 1)

    def test_site_closes(self) -> None:
        """Draining lets it go on, and lets nobody in; closing the site ends it."""
        wire = self.enter()
        self.site.drain()
        wire.receive(client(BINARY, b"still"))
        self.assertEqual(self.carried[0].heard, b"still")
        self.enter()
        self.assertEqual((statuses(self.head + b"\r\n"), len(self.carried)), ([503], 1))
        self.site.close()
        self.assertTrue(wire.aborted)
        wire.end(clean=False)
        self.assertEqual(self.carried[0].lost, 1)


class PlainPipeTests(PipeTests):
    """The same with autobahn's framing."""

    kind = ConsoleSocket
