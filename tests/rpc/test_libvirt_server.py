"""The messages of one libvirt client: their limits, their order, and signs of life."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway.rpc.libvirt_server import (
    COUNT,
    HEAVY,
    INTERVAL,
    LINGER,
    LOGIN,
    PINGS,
    STRANGERS,
    WINDOW,
    LibvirtServer,
    Session,
)
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import (
    CHUNK,
    KEEPALIVE,
    LARGEST,
    PING,
    PONG,
    Message,
    MessageReader,
    Status,
    Type,
)
from gateway.wire.xdr import XdrError
from tests.rpc.wire_case import Wire

REMOTE = 0x20008086
_MESSAGES = st.tuples(*[st.integers(0, 8)] * 6).map(lambda words: Message(*words).pack())


class Noted(Session):
    """Notes what a client says, and answers when the test does."""

    def __init__(self) -> None:
        self.is_known = False
        self.calls: list[Message] = []
        self.streams: list[Message] = []
        self.flows: list[bool] = []
        self.ended: list[str] = []

    @property
    def known(self) -> bool:
        return self.is_known

    def call(self, message: Message) -> None:
        self.calls.append(message)

    def stream(self, message: Message) -> None:
        if message.payload == b"nonsense":
            raise XdrError("nonsense")
        self.streams.append(message)

    def flow(self, on: bool) -> None:
        self.flows.append(on)

    def gone(self, reason: str) -> None:
        self.ended.append(reason)


class ServerCase(SynchronousTestCase):
    """A server of one client."""

    tls = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.wire = Wire()
        self.session = Noted()
        self.server = LibvirtServer(self.clock, lambda _: self.session, tls=self.tls)
        self.server.makeConnection(self.wire)

    def tearDown(self) -> None:
        self.leave()
        self.assertEqual(len(self.session.ended), 1)
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def leave(self) -> None:
        if not self.session.ended:
            self.server.connectionLost(Failure(ConnectionDone()))

    def log_in(self) -> None:
        self.session.is_known = True
        self.server.logged_in()

    def say(self, *messages: Message) -> None:
        self.server.dataReceived(b"".join(message.pack() for message in messages))

    def call(
        self, serial: int, payload: bytes = b"", kind: int = Type.CALL, status: int = Status.OK
    ) -> Message:
        return Message(REMOTE, 1, 66, kind, serial, status, payload)

    def heard(self) -> list[Message]:
        data = self.wire.value()
        self.wire.clear()
        return list(MessageReader().feed(data))

    @property
    def paused(self) -> bool:
        return self.wire.producerState == "paused"


class MessageTests(ServerCase):
    """What is taken in."""

    def test_pieces(self) -> None:
        """Calls arrive in pieces of any size."""
        calls = [self.call(number, b"x" * number) for number in range(4)]
        for octet in b"".join(each.pack() for each in calls):
            self.server.dataReceived(bytes([octet]))
        self.assertEqual(self.session.calls, calls)

    def test_strangers(self) -> None:
        """Before the login a message is no longer than a token is, and not kept until somebody sees that."""
        self.say(self.call(1, bytes(STRANGERS - 28)))
        self.assertEqual(len(self.session.calls), 1)
        self.server.dataReceived(self.call(2, bytes(STRANGERS - 27)).pack()[:28])
        self.assertTrue(self.wire.aborted)

    def test_long(self) -> None:
        """After the login it is as long as libvirt's may be, and no longer."""
        self.log_in()
        self.say(self.call(1, bytes(LARGEST - 28)))
        self.assertEqual(len(self.session.calls), 1)
        self.server.done(self.session.calls[0])
        self.server.dataReceived((LARGEST + 1).to_bytes(4, "big") + bytes(24))
        self.assertTrue(self.wire.aborted)

    def test_nonsense(self) -> None:
        """What only a server says, what comes with descriptors, streams of strangers: each ends it."""
        for message in (
            self.call(1, kind=Type.REPLY),
            self.call(1, kind=Type.EVENT),
            self.call(1, b"", kind=Type.CALL_WITH_FDS),
            self.call(1, status=Status.ERROR),
            self.call(1, status=Status.CONTINUE),
            self.call(1, kind=Type.STREAM, status=Status.CONTINUE),
            self.call(1, bytes(12), kind=Type.HOLE, status=Status.CONTINUE),
        ):
            self.say(message, self.call(2))
            self.assertTrue(self.wire.aborted, message)
            self.assertEqual(self.session.calls, [])
            self.leave()
            self.setUp()

    def test_nonsense_of_streams(self) -> None:
        """What makes no sense on a stream ends the connection."""
        self.log_in()
        self.say(self.call(1, b"nonsense", kind=Type.STREAM, status=Status.CONTINUE), self.call(2))
        self.assertEqual((self.wire.aborted, self.session.calls), (True, []))

    def test_window(self) -> None:
        """So many calls are in work, and no more is read until one of them is answered."""
        self.say(*(self.call(number) for number in range(WINDOW + 3)))
        self.assertEqual((len(self.session.calls), self.paused), (WINDOW, True))
        for number in range(3):
            self.server.done(self.session.calls[number])
        self.assertEqual((len(self.session.calls), self.paused), (WINDOW + 3, True))
        self.server.done(self.session.calls[5])
        self.assertFalse(self.paused)

    def test_heavy(self) -> None:
        """Calls in work have so many bytes, and no more is read until one of them is answered."""
        self.log_in()
        heavy = bytes(HEAVY // 2)
        for number in range(4):
            self.say(self.call(number, heavy))
        self.assertEqual((len(self.session.calls), self.paused), (2, True))
        self.server.done(self.session.calls[0])
        self.assertEqual((len(self.session.calls), self.paused), (3, True))

    def test_held(self) -> None:
        """As long as anybody has a reason nothing is dealt with, pings included."""
        self.server.hold("a", True)
        self.server.hold("b", True)
        self.say(self.call(1), Message(KEEPALIVE, 1, PING, Type.EVENT, 0, Status.OK))
        self.server.hold("a", False)
        self.assertEqual((self.session.calls, self.heard(), self.paused), ([], [], True))
        self.server.hold("b", False)
        self.assertEqual((len(self.session.calls), len(self.heard()), self.paused), (1, 1, False))

    @given(st.lists(st.binary(max_size=80) | _MESSAGES, max_size=8), st.integers(1, 99))
    @settings(max_examples=200, deadline=None)
    def test_anything(self, parts: list[bytes], piece: int) -> None:
        """Whatever comes is a call, or the end."""
        data = b"".join(parts)
        for at in range(0, len(data), piece):
            self.server.dataReceived(data[at : at + piece])
        self.assertLess(self.server._reader.held, STRANGERS)
        self.leave()
        self.clock.advance(0)
        self.setUp()


class OutTests(ServerCase):
    """What is sent."""

    def test_answers(self) -> None:
        """Answers repeat the numbers of the call; an event has none."""
        call = self.call(7)
        self.server.reply(call, b"abcd")
        self.server.refuse(call, LibvirtError(42, 10, "no"))
        self.server.event(REMOTE, 318, b"ev")
        got = [(it.type, it.serial, it.status) for it in self.heard()]
        self.assertEqual(got, [(Type.REPLY, 7, 0), (Type.REPLY, 7, 1), (Type.EVENT, 0, 0)])

    def test_chunks(self) -> None:
        """Data of a stream goes in the pieces that libvirt has; its end is an empty one."""
        self.server.data(self.call(7), bytes(CHUNK + 1))
        self.server.data(self.call(7), b"")
        self.assertEqual([len(it.payload) for it in self.heard()], [CHUNK, 1, 0])

    def test_full(self) -> None:
        """While the client does not take what is sent, the session knows, and nothing is dealt with."""
        self.wire.feeds.pauseProducing()
        self.say(self.call(1))
        self.assertEqual((self.session.flows, self.session.calls, self.paused), ([False], [], True))
        self.wire.feeds.resumeProducing()
        self.assertEqual(
            (self.session.flows, len(self.session.calls), self.paused), ([False, True], 1, False)
        )

    def test_linger(self) -> None:
        """Who does not take the last of it is not waited for, and has nothing dealt with meanwhile."""
        self.log_in()
        self.server.close("closed")
        self.assertTrue(self.wire.disconnecting)
        self.say(self.call(1))
        self.assertEqual((self.session.calls, len(self.server._inbox)), ([], 0))
        self.clock.advance(LINGER - 1)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(1)
        self.assertTrue(self.wire.aborted)
        self.leave()
        self.assertEqual(self.session.ended, ["closed"])

    def test_nothing_after(self) -> None:
        """Nothing is sent after the connection was cut."""
        self.server.abort("revoked")
        self.server.reply(self.call(1), b"secret")
        self.server.event(REMOTE, 318, b"secret")
        self.assertEqual(self.heard(), [])
        self.leave()
        self.assertEqual(self.session.ended, ["revoked"])


class TlsTests(ServerCase):
    """Where the transport encrypts."""

    tls = True

    def test_confirmed(self) -> None:
        """The client's certificate is confirmed before anything else."""
        self.assertEqual(self.wire.value(), b"\1")

    def test_one_by_one(self) -> None:
        """Each message is a record of its own; what waits goes out before the end."""
        self.wire.clear()
        self.server.reply(self.call(1), b"")
        self.server.reply(self.call(2), b"")
        self.assertEqual(len(self.heard()), 1)
        self.server.close("closed")
        self.assertEqual([it.serial for it in self.heard()], [2])


class LifeTests(ServerCase):
    """Who is silent, and who says too much."""

    def ping(self, count: int) -> None:
        self.say(*[Message(KEEPALIVE, 1, PING, Type.EVENT, 0, Status.OK)] * count)

    def test_login(self) -> None:
        """Whoever does not log in is cut off after a while."""
        self.clock.advance(LOGIN - 1)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(1)
        self.assertTrue(self.wire.aborted)

    def test_known(self) -> None:
        """Whoever has may be silent for as long as it likes, unless it has asked to be watched."""
        self.log_in()
        self.clock.advance(100_000)
        self.assertFalse(self.wire.aborted)

    def test_pings(self) -> None:
        """Pings are answered, for ever, but only so many of them in a while; watched or not."""
        self.log_in()
        for _ in range(5):
            self.ping(PINGS)
            self.assertEqual({it.procedure for it in self.heard()}, {PONG})
            self.clock.advance(INTERVAL)
        self.assertFalse(self.wire.aborted)
        self.ping(PINGS + 1)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(len(self.heard()), PINGS)

    def test_silent(self) -> None:
        """Whoever is watched is asked for a sign of life, and cut off when none comes."""
        self.log_in()
        self.server.watch()
        self.server.watch()
        for _ in range(COUNT + 1):
            self.clock.advance(INTERVAL)
        self.assertEqual([it.procedure for it in self.heard()], [PING] * COUNT)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(INTERVAL)
        self.assertTrue(self.wire.aborted)

    def test_any_sign(self) -> None:
        """Whatever the client says is a sign of life."""
        self.log_in()
        self.server.watch()
        for number in range(20):
            self.clock.advance(INTERVAL)
            self.say(self.call(number))
            self.server.done(self.session.calls[-1])
        self.assertFalse(self.wire.aborted)

    def test_not_read(self) -> None:
        """What we do not read cannot be a sign of life: nobody is cut off for our own slowness."""
        self.log_in()
        self.server.watch()
        self.server.hold("work", True)
        for _ in range(30):
            self.clock.advance(INTERVAL)
        self.assertFalse(self.wire.aborted)
        self.server.hold("work", False)
