"""One message in a record, and producers that hear what they must."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from gateway.core import dev_pki, fasttls
from gateway.core.batch import BATCH
from gateway.core.pump import able
from gateway.core.tls import basic_context, present, tls_factory
from gateway.rpc.outbox import Outbox
from tests.rpc.wire_case import Wire
from tests.support import Producer


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
        super().__init__(Clock())  # type: ignore[arg-type]  # it is asked for nothing else
        self.connected = 1
        self.socket = _Socket()

    def startWriting(self) -> None: ...

    @property
    def written(self) -> bytes:
        return b"".join([*self.socket.sent, *self._tempDataBuffer])


class _Writes(StringTransport):
    """Tells one write from the next."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


class RecordsTest(SynchronousTestCase):
    """On fast TLS."""

    def setUp(self) -> None:
        now = datetime.now(UTC)
        issued = dev_pki.authority(now).issue("host.invalid", now=now)
        context = basic_context(SSL.TLS_SERVER_METHOD)
        present(context, [issued.certificate], issued.key)
        self.wire, self.client = _Writes(), SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        factory: Any = tls_factory(_Server(context), Factory.forProtocol(Protocol), Clock())
        factory.protocol = fasttls.FastTLS
        self.side = factory.buildProtocol(None)
        self.side.makeConnection(self.wire)
        self.client.set_connect_state()
        for _ in range(3):
            with contextlib.suppress(SSL.WantReadError):
                self.client.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                self.side.dataReceived(self.client.bio_read(65536))
            self.arrived()
        self.outbox = Outbox(self.side, Clock(), single=True)

    def arrived(self) -> list[bytes]:
        """What each write brought to the client, by the record."""
        found = []
        for data in self.wire.writes:
            self.client.bio_write(data)
            with contextlib.suppress(SSL.WantReadError):
                while True:
                    found.append(self.client.recv(65536))
            found.append(b"|")
        self.wire.writes.clear()
        return found

    def test_together(self) -> None:
        """What comes of one read leaves at once, each message in a record of its own and in order."""
        self.outbox.send(b"a")
        with BATCH:
            for data in (b"b", b"c", b"d"):
                self.outbox.send(data)
            self.assertEqual(len(self.wire.writes), 1)
        self.outbox.send(b"e")
        self.assertEqual(self.arrived(), [b"a", b"|", b"b", b"c", b"d", b"|", b"e", b"|"])

    def test_large(self) -> None:
        """What is large waits for nobody, and takes along what does."""
        large = bytes(16_384)
        with BATCH:
            self.outbox.send(b"a")
            self.outbox.send(large)
            self.outbox.send(b"b")
        self.assertEqual(self.arrived(), [b"a", large, b"|", b"b", b"|"])

    def test_close(self) -> None:
        """What was sent before the connection closes still leaves."""
        with BATCH:
            self.outbox.send(b"a")
            self.outbox.close()
            self.assertEqual(self.arrived(), [b"a", b"|"])


@implementer(IOpenSSLServerConnectionCreator)
class _Server:
    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)


class FirstTest(SynchronousTestCase):
    """What is to be written down before anybody is told, is."""

    def test_large(self) -> None:
        """Also before what does not wait for the end of its batch."""
        told: list[str] = []
        plain = _Told(told)
        # Without direct sends nothing leaves before the reactor's next turn.
        for side in (_FastTLS(told), *([plain] if able(plain) else [])):
            outbox = Outbox(side, Clock(), single=side is not plain)
            with BATCH:
                BATCH.first(lambda: told.append("trail"))
                outbox.send(bytes(100_000))
                BATCH.first(lambda: told.append("trail"))
                outbox.send(b"a")
                outbox.close()
            self.assertEqual(told[:3], ["trail", "sent", "trail"], side)
            told.clear()


class _ToldSocket(_Socket):
    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self._told = told

    def send(self, data: bytes) -> int:
        self._told.append("sent")
        return super().send(data)


class _Told(_Connected):
    """Notes when something is sent."""

    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self.socket = _ToldSocket(told)


class _FastTLS(fasttls.FastTLS):
    """The same; what it is given is what it sends."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def write(self, data: bytes | memoryview) -> None:
        self._told.append("sent")

    def gather(self, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def registerProducer(self, producer: object, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...


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
