"""One message in a record, and producers that hear what they must."""

from __future__ import annotations

from twisted.internet.abstract import FileDescriptor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.batch import BATCH
from gateway.core.pump import able
from gateway.rpc.outbox import Outbox
from tests.rpc.wire_case import Producer, Wire


class Turns(Clock):
    """A clock that tells one turn of the reactor from the next."""

    def turn(self) -> None:
        due, self.calls = self.calls, []
        for each in due:
            each.called = 1
            each.func(*each.args, **each.kw)


class SingleTest(SynchronousTestCase):
    """Over TLS."""

    def setUp(self) -> None:
        self.clock, self.wire, self.producer = Turns(), Wire(), Producer()
        self.outbox = Outbox(self.wire, self.clock, single=True)

    def turns(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock.turn()

    def test_one_for_each_turn(self) -> None:
        """Between two messages lies a whole turn, in which Twisted's TLS sends what it kept until then."""
        for data in (b"a", b"b", b"c"):
            self.outbox.send(data)
        self.assertEqual(self.wire.writes, [b"a"])
        self.turns()
        self.assertEqual(self.wire.writes, [b"a"])
        self.turns()
        self.assertEqual(self.wire.writes, [b"a", b"b"])
        self.turns(2)
        self.outbox.send(b"d")
        self.assertEqual(self.wire.writes, [b"a", b"b", b"c"])
        self.turns(2)
        self.assertEqual(self.wire.writes, [b"a", b"b", b"c", b"d"])
        self.turns(2)
        self.outbox.send(b"e")
        self.assertEqual(self.wire.writes[-1], b"e")
        self.turns(2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_full(self) -> None:
        """Nothing is written while the transport is full, and order is kept."""
        self.outbox.pauseProducing()
        self.outbox.send(b"a")
        self.outbox.send(b"b")
        self.turns(4)
        self.assertEqual(self.wire.writes, [])
        self.outbox.resumeProducing()
        self.assertEqual(self.wire.writes, [b"a"])
        self.turns(2)
        self.assertEqual(self.wire.writes, [b"a", b"b"])

    def test_producer(self) -> None:
        """Who writes much waits while anything waits, and hears each change once."""
        self.outbox.registerProducer(self.producer)
        self.assertEqual(self.producer.told, [])
        self.outbox.send(b"a")
        self.assertEqual(self.producer.told, [])
        self.outbox.send(b"b")
        self.outbox.send(b"c")
        self.assertEqual(self.producer.told, ["pause"])
        self.turns(2)
        self.assertEqual(self.producer.told, ["pause"])
        self.turns(2)
        self.assertEqual(self.producer.told, ["pause", "resume"])
        self.outbox.pauseProducing()
        self.outbox.pauseProducing()
        self.outbox.resumeProducing()
        self.assertEqual(self.producer.told, ["pause", "resume", "pause", "resume"])
        self.outbox.unregisterProducer()
        self.outbox.pauseProducing()
        self.assertEqual(len(self.producer.told), 4)

    def test_producer_late(self) -> None:
        """Who comes while it is full hears so at once."""
        self.outbox.pauseProducing()
        self.outbox.registerProducer(self.producer)
        self.assertEqual(self.producer.told, ["pause"])

    def test_lost(self) -> None:
        """Nothing goes to a transport that is lost."""
        self.outbox.send(b"a")
        self.outbox.send(b"b")
        self.outbox.stopProducing()
        self.outbox.send(b"c")
        self.turns(4)
        self.assertEqual(self.wire.writes, [b"a"])

    def test_close(self) -> None:
        """What still waits is dropped, never sent in a burst; the transport may close."""
        self.outbox.send(b"a")
        self.outbox.send(b"b")
        self.outbox.close()
        self.assertIsNone(self.wire.producer)
        self.turns(4)
        self.assertEqual(self.wire.writes, [b"a"])

    def test_release(self) -> None:
        """Who writes what nobody wants is stopped, once."""
        self.outbox.registerProducer(self.producer)
        self.outbox.release()
        self.outbox.release()
        self.assertEqual(self.producer.told, ["stop"])


class PlainTest(SynchronousTestCase):
    """Without TLS."""

    def setUp(self) -> None:
        self.clock, self.wire, self.producer = Clock(), Wire(), Producer()
        self.outbox = Outbox(self.wire, self.clock, single=False)

    def test_at_once(self) -> None:
        """Every message is written when it is sent."""
        self.outbox.send(b"a")
        self.outbox.send(b"b")
        self.assertEqual(self.wire.writes, [b"a", b"b"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_producer(self) -> None:
        """The transport's word goes to who writes much, until they let go."""
        self.assertIsNone(self.wire.producer)
        self.outbox.registerProducer(self.producer)
        self.wire.feeds.pauseProducing()
        self.wire.feeds.resumeProducing()
        self.assertEqual(self.producer.told, ["pause", "resume"])
        self.outbox.unregisterProducer()
        self.outbox.unregisterProducer()
        self.assertIsNone(self.wire.producer)
        self.outbox.registerProducer(self.producer)
        self.outbox.release()
        self.assertIsNone(self.wire.producer)
        self.assertEqual(self.producer.told, ["pause", "resume", "stop"])

    def test_producer_after_full(self) -> None:
        """That it was full once is nothing to the next who writes much."""
        self.outbox.registerProducer(self.producer)
        self.wire.feeds.pauseProducing()
        self.outbox.unregisterProducer()
        other = Producer()
        self.outbox.registerProducer(other)
        self.assertEqual(other.told, [])


class _Socket:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.sent.append(bytes(data))
        return len(data)


class _Connected(FileDescriptor):
    """A connection as the reactor has it."""

    _aborting = False

    def __init__(self) -> None:
        super().__init__(Clock())  # type: ignore[arg-type]
        self.connected = 1
        self.socket = _Socket()

    def startWriting(self) -> None: ...

    @property
    def written(self) -> bytes:
        return b"".join([*self.socket.sent, *self._tempDataBuffer])


class BatchTest(SynchronousTestCase):
    """On a socket."""

    def setUp(self) -> None:
        self.wire = _Connected()
        self.outbox = Outbox(self.wire, Clock(), single=False)

    def test_together(self) -> None:
        """What comes of one read leaves in one piece, in its order; what is sent alone leaves at once."""
        self.outbox.send(b"a")
        with BATCH:
            self.outbox.send(b"b")
            self.outbox.send(b"c")
        self.outbox.send(b"d")
        self.assertEqual(self.wire.written, b"abcd")
        if able(self.wire):
            self.assertEqual(self.wire.socket.sent, [b"a", b"bc", b"d"])

    def test_large(self) -> None:
        """What is large does not wait, and nothing that came before it comes after it."""
        large = bytes(100_000)
        with BATCH:
            self.outbox.send(b"a")
            self.outbox.send(large)
            self.outbox.send(b"b")
            self.assertEqual(self.wire.written[:2], b"a\0")
        self.assertEqual(self.wire.written, b"a" + large + b"b")

    def test_close(self) -> None:
        """What was sent before the end leaves before it."""
        with BATCH:
            self.outbox.send(b"a")
            self.outbox.close()
            self.assertEqual(self.wire.written, b"a")
