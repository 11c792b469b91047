"""One tunnel between two connections in memory."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.tunnel.tunnel import ESTABLISHED, FIRST, LINGER, LOOKED, Tunnel, Watch, name_of
from gateway.wire.spice_link import LinkMessage
from tests.core.test_channel import Wire
from tests.wire import spice_server

HELLO = b"\x16\x03\x01\x00\x05hello"
#: How a server's answer begins.
REPLY = b"REDQ" + spice_server.u32(2, 2, 178)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """*data* in pieces, none of them empty."""
    at = sorted({0, len(data), *(it % (len(data) + 1) for it in places)})
    return [data[start:stop] for start, stop in pairwise(at)]


class TunnelCase(SynchronousTestCase):
    """A tunnel whose server is connected; :meth:`begin` gives it a client."""

    guarded = True

    def setUp(self) -> None:
        self.start()

    def start(self) -> None:
        self.clock = Clock()
        self.sent = self.received = 0
        self.names: list[str] = []
        self.groups: list[int] = []
        self.words: list[str] = []
        self.tunnel = Tunnel(
            self.clock, Watch(self.moved, self.names.append, self.groups.append), guarded=self.guarded
        )
        self.tunnel.over.addCallback(self.words.append)
        self.server = Wire(self.tunnel.server)

    def moved(self, sent: int, received: int) -> None:
        self.sent += sent
        self.received += received

    def begin(self, *said: bytes) -> None:
        self.client = Wire(self.tunnel.client)
        self.assertEqual(self.client.taken(), ESTABLISHED)
        for piece in said:
            self.client.receive(piece)

    def finish(self) -> str:
        """Both connections go; return why."""
        for wire in (self.client, self.server):
            wire.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.words), 1)
        return self.words[0]

    def assert_cut(self, word: str) -> None:
        """Both are cut at once, and nothing was said to the server."""
        self.assertTrue(self.client.aborted and self.server.aborted)
        self.assertEqual(self.server.taken(), b"")
        self.assertEqual(self.finish(), word)


class GuardTests(TunnelCase):
    """What a tunnel begins with."""

    def test_named(self) -> None:
        """TLS and each SPICE channel are known by their first bytes, in pieces of any size."""
        for hello, name in (
            (HELLO, "tls"),
            (spice_server.link(kind=1), "main"),
            (spice_server.link(7, kind=2, number=1), "display 1"),
            (spice_server.link(7, kind=9), "usbredir"),
            (spice_server.link(7, kind=77), "channel 77"),
        ):
            for size in (1, 3, 1000):
                self.start()
                self.begin(*(hello[at : at + size] for at in range(0, len(hello), size)))
                self.assertEqual((self.names, self.server.taken()), ([name], hello))
                self.assertEqual((self.sent, self.received), (len(hello), 0))
                self.finish()

    def test_grouped(self) -> None:
        """All of one viewer are known by one number: the server says it on main, the client on the others."""
        server, client = spice_server.Server(session_id=77), spice_server.Client(hello=spice_server.link())
        self.begin(client.hello)
        for _ in range(2):
            self.server.receive(server.receive(self.server.taken()))
            self.client.receive(client.receive(self.client.taken()))
        self.assertEqual((client.result, self.groups), (0, [77]))
        self.finish()
        for hello, groups in ((spice_server.link(78, kind=2), [78]), (HELLO, []), (spice_server.link(), [])):
            self.start()
            self.begin(hello)
            self.server.receive(REPLY)
            self.assertEqual(self.groups, groups)
            self.finish()

    def test_names(self) -> None:
        """Channels have the names of the protocol, and a number where there are several."""
        for kind, number, name in (
            (3, 0, "inputs"),
            (11, 2, "webdav 2"),
            (0, 0, ""),
            (12, 3, "channel 12 3"),
        ):
            self.assertEqual(name_of(LinkMessage(0, kind, number)), name)

    def test_nothing_else(self) -> None:
        """Whatever is neither SPICE nor TLS is cut, and not a byte of it reaches the server."""
        for said in (
            b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", b"RFB 003.008\n", b"\0", b"R\0", b"RED\0",
            b"REDX" + bytes(40), b"\x16\x02", b"\x16\0", b"\x15\x03\x01", b"*1\r\n", b"redq",
            b"REDQ\3" + bytes(40),
            b"REDQ" + spice_server.u32(2, 2, 5000), b"REDQ" + spice_server.u32(2, 2, 0),
        ):  # fmt: skip
            for size in (1, 1000):
                self.start()
                self.begin(*(said[at : at + size] for at in range(0, len(said), size)))
                self.assertEqual(self.names, [], said)
                self.assert_cut("guard")

    def test_too_slow(self) -> None:
        """Who says nothing, or one byte after another, is cut after ten seconds in all."""
        hello = spice_server.link()
        for pieces in (0, 9):
            self.start()
            self.begin()
            for second in range(int(FIRST)):
                self.assertFalse(self.client.aborted)
                if second < pieces:
                    self.client.receive(hello[second : second + 1])
                self.clock.advance(1)
            self.assert_cut("guard")

    def test_server_waits(self) -> None:
        """What the server says first is not even read before the client is known."""
        self.server.receive(b"early")
        self.begin(HELLO[:1])
        self.assertEqual((self.client.taken(), bytes(self.server.inbox)), (b"", b"early"))
        self.client.receive(HELLO[1:])
        self.server.receive(b"")
        self.assertEqual(self.client.taken(), b"early")

    def test_early(self) -> None:
        """What came before the answer goes after it."""
        self.client = Wire(self.tunnel.client)
        self.tunnel.client.dataReceived(spice_server.link() + b"more")
        self.assertEqual(self.client.taken(), ESTABLISHED)
        self.assertEqual(self.server.taken(), spice_server.link() + b"more")

    def test_later_bytes_are_free(self) -> None:
        """Once it is known, a piece that begins as TLS does is what it is: a password is random."""
        for later in (b"\x16\0" + bytes(126), b"\x16" + bytes(127), b"\x16\x03" + bytes(126), b"GET / "):
            self.start()
            self.begin(spice_server.link(common=0))
            server = spice_server.Server()
            self.server.receive(server.receive(self.server.taken()))
            self.client.receive(later)
            self.assertFalse(self.client.aborted, later)
            self.assertEqual((self.server.taken(), self.names), (later, ["main"]))

    def test_dialogue(self) -> None:
        """A whole link between a real server's and a real client's words: neither sees that we are here."""
        for kind, common in ((1, 0b1111), (2, 0b1111), (3, 0b1011), (2, 0)):
            self.start()
            client = spice_server.Client("pass", hello=spice_server.link(5, kind, common=common))
            server = spice_server.Server("pass")
            self.begin(client.hello)
            for _ in range(4):
                self.server.receive(server.receive(self.server.taken()))
                self.client.receive(client.receive(self.client.taken()))
            self.assertEqual((client.result, server.password, server.link), (0, "pass", client.hello))
            # A password that one of ours was put in the place of could not be read by the server.
            self.assertTrue(client.key)

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from([(1, 15), (2, 15), (3, 0), (9, 4)]),
        st.booleans(),
        st.binary(max_size=400),
        st.one_of(st.binary(max_size=400), st.binary(max_size=60).map(lambda it: REPLY + it)),
        st.lists(st.integers(0, 1 << 20), max_size=12),
        st.lists(st.integers(0, 1 << 20), max_size=12),
        st.randoms(use_true_random=False),
    )  # fmt: skip
    def test_never_altered(
        self,
        kind: tuple[int, int],
        tls: bool,
        said: bytes,
        answer: bytes,
        cuts: list[int],
        back: list[int],
        random: Random,
    ) -> None:
        """After a good beginning any bytes pass both ways, in any pieces and any order, as they are."""
        self.start()
        said = (HELLO if tls else spice_server.link(9, kind[0], common=kind[1])) + said
        self.begin()
        # Of which one byte is the client's before anything of the server is read.
        steps = [(self.client, it) for it in cut(said, cuts)] + [
            (self.server, it) for it in cut(answer, back)
        ]
        order = list(range(len(steps)))
        random.shuffle(order)
        ours = iter([it for it in steps if it[0] is self.client])
        theirs = iter([it for it in steps if it[0] is self.server])
        heard = told = b""
        for number in order:
            wire, piece = next(ours if steps[number][0] is self.client else theirs)
            wire.receive(piece)
            self.server.receive(b"")
            heard += self.server.taken()
            told += self.client.taken()
        self.server.receive(b"")
        self.assertEqual((heard + self.server.taken(), told + self.client.taken()), (said, answer))
        self.assertEqual((self.sent, self.received), (len(said), len(answer)))
        self.assertFalse(self.client.aborted or self.server.aborted)
        self.finish()


class FlowTests(TunnelCase):
    """Where bytes may be anything."""

    guarded = False

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=30)), max_size=30))
    def test_anything(self, steps: list[tuple[bool, bytes]]) -> None:
        """Any bytes pass at once, both ways."""
        self.start()
        self.begin()
        for ours, piece in steps:
            here, there = (self.client, self.server) if ours else (self.server, self.client)
            here.receive(piece)
            self.assertEqual((there.taken(), here.taken()), (piece, b""))
        self.assertEqual(self.names, [])
        self.finish()

    def test_back_pressure(self) -> None:
        """A side that cannot take more stops the other one, and only that."""
        self.begin()
        for here, there in ((self.client, self.server), (self.server, self.client)):
            self.assertTrue(there.streaming)
            there.producer.pauseProducing()
            self.assertEqual((here.reading, there.reading), (False, True))
            here.receive(b"waits")
            self.assertEqual(there.taken(), b"")
            there.producer.resumeProducing()
            here.receive(b"")
            self.assertEqual(there.taken(), b"waits")

    def test_half_closed(self) -> None:
        """Who has nothing more to say is told the rest, whichever side it is."""
        for ours in (True, False):
            self.start()
            self.begin()
            here, there = (self.client, self.server) if ours else (self.server, self.client)
            self.assertTrue(IHalfCloseableProtocol.providedBy(here.protocol))
            here.receive(b"last")
            here.protocol.readConnectionLost()  # type: ignore[attr-defined]  # it is half-closeable
            self.assertEqual((there.taken(), there.half_closed, there.closed), (b"last", True, False))
            there.protocol.writeConnectionLost()  # type: ignore[attr-defined]  # it is half-closeable
            there.receive(b"answer")
            self.assertEqual((here.taken(), here.closed), (b"answer", False))
            there.protocol.readConnectionLost()  # type: ignore[attr-defined]  # it is half-closeable
            self.assertTrue(there.closed)
            there.end()
            self.assertTrue(here.closed)
            self.assertEqual(self.finish(), "client" if ours else "server")

    def test_linger(self) -> None:
        """Nobody goes on for ever after the other side's last word."""
        self.begin()
        self.client.protocol.readConnectionLost()  # type: ignore[attr-defined]  # it is half-closeable
        self.clock.advance(LINGER - 1)
        self.assertFalse(self.server.aborted)
        self.clock.advance(1)
        self.assertTrue(self.server.aborted and self.client.aborted)
        self.finish()

    def test_server_is_gone_already(self) -> None:
        """A server that hung up before the client was told ends the tunnel, after the answer."""
        self.server.end()
        self.begin()
        self.assertTrue(self.client.closed)
        self.assertEqual(self.finish(), "server")


class EndTests(TunnelCase):
    """How a tunnel ends."""

    def up(self) -> None:
        self.start()
        self.begin(HELLO)
        self.server.taken()

    def test_left(self) -> None:
        """Who goes takes the other one along, after the last byte; a lost connection is told apart."""
        for ours in (True, False):
            for clean in (True, False):
                self.up()
                here, there = (self.client, self.server) if ours else (self.server, self.client)
                here.receive(b"last")
                here.end(clean)
                self.assertEqual((there.taken(), there.closed, there.aborted), (b"last", True, False))
                self.assertEqual(self.words, [])
                self.assertEqual(self.finish(), ("client" if ours else "server") if clean else "lost")

    def test_no_halves_in_spice(self) -> None:
        """In SPICE the end of one direction is the end."""
        self.up()
        self.client.protocol.readConnectionLost()  # type: ignore[attr-defined]  # it is half-closeable
        self.assertTrue(self.client.closed)
        self.client.end()
        self.assertTrue(self.server.closed)
        self.assertEqual(self.finish(), "client")

    def test_stuck(self) -> None:
        """Who does not take the last bytes is cut after half a minute."""
        self.up()
        self.client.end()
        self.clock.advance(LINGER)
        self.assertTrue(self.server.aborted)
        self.finish()

    def test_ended(self) -> None:
        """Ended by us, both are cut at once; the first word counts."""
        self.up()
        self.tunnel.end("revoked")
        self.tunnel.end("idle")
        self.assertTrue(self.client.aborted and self.server.aborted)
        self.client.receive(b"more")
        self.assertEqual(self.server.taken(), b"")
        self.assertEqual(self.finish(), "revoked")

    def test_before_it_began(self) -> None:
        """It can be ended before there is a client."""
        self.tunnel.end("revoked")
        self.assertTrue(self.server.aborted)

    def test_display_left_early(self) -> None:
        """A display whose client leaves before its first message gets one, for servers crash otherwise."""
        self.start()
        client, server = spice_server.Client(hello=spice_server.link(5, 2)), spice_server.Server()
        self.begin(client.hello)
        for _ in range(2):
            self.server.receive(server.receive(self.server.taken()))
            self.client.receive(client.receive(self.client.taken()))
        self.assertEqual(client.result, 0)
        self.client.end()
        self.assertFalse(self.server.closed)
        server.receive(self.server.taken())
        self.assertEqual(server.heard, spice_server.mini(101, bytes(14)))
        self.server.receive(spice_server.mini(102))
        self.assertTrue(self.server.closed)
        self.assertEqual(self.finish(), "client")

    def test_looked_at_no_longer(self) -> None:
        """Nobody keeps us looking, for meanwhile no side can hold up the other."""
        for ours in (True, False):
            self.start()
            client, server = spice_server.Client(hello=spice_server.link(5, 2)), spice_server.Server()
            self.begin(client.hello)
            self.server.receive(server.receive(self.server.taken()))
            if ours:
                self.client.receive(client.receive(self.client.taken()) + spice_server.mini(101, bytes(14)))
            self.assertIsNone(self.server.producer)
            here, there = (self.client, self.server) if ours else (self.server, self.client)
            for _ in range(3):
                here.receive(bytes(LOOKED // 2))
            self.assertIsNotNone(there.producer)
            there.producer.pauseProducing()
            self.assertFalse(here.reading)
            self.finish()
