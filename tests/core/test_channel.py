from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, ITransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from gateway import errors
from gateway.core import channel
from gateway.core.exchange import Exchange
from gateway.core.pace import HttpLimits
from gateway.core.web import GatewaySite
from tests.support import Producer, ReactorTestCase


@implementer(ITransport, IConsumer)
class Wire:
    """A transport in memory, which keeps what the protocol does not want to read yet.

    :ivar inbox: bytes on their way to the protocol.
    :ivar sent: bytes the protocol wrote.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.inbox = bytearray()
        self.sent = bytearray()
        self.reading = True
        self.closed = self.half_closed = self.aborted = self.lost = False
        self.producer: Any = None
        self.streaming = True
        protocol.makeConnection(self)

    def receive(self, data: bytes) -> None:
        """The peer sends; what is not read stays in the inbox."""
        self.inbox += data
        while self.inbox and self.reading and not self.lost and not self.aborted:
            piece = bytes(self.inbox[:65536])
            del self.inbox[:65536]
            self.protocol.dataReceived(piece)

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        data = bytes(self.sent)
        self.sent.clear()
        return data

    def end(self, clean: bool = True) -> None:
        """The connection goes."""
        if not self.lost:
            self.lost = True
            if self.producer is not None:
                self.producer.stopProducing()
            self.protocol.connectionLost(Failure(ConnectionDone() if clean else ConnectionLost()))

    def pull(self) -> None:
        """Ask a pull producer for all it has."""
        while self.producer is not None:
            self.producer.resumeProducing()

    def write(self, data: bytes) -> None:
        if not self.closed and not self.aborted:
            self.sent += data

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.closed = True

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        self.producer, self.streaming = producer, streaming

    def unregisterProducer(self) -> None:
        self.producer = None

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 4711)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.2", 443)


def request(line: bytes = b"GET /x", fields: bytes = b"", body: bytes = b"") -> bytes:
    return line + b" HTTP/1.1\r\nhost: a.invalid\r\n" + fields + b"\r\n" + body


def statuses(data: bytes | bytearray) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", data)]


class ChannelCase(SynchronousTestCase):
    """A site and its connections; each must leave nothing behind."""

    limits = HttpLimits()

    def setUp(self) -> None:
        self.clock = Clock()
        self.seen: list[Exchange] = []
        self.observed: list[tuple[int, float]] = []
        self.refused: list[errors.GatewayError] = []
        self.wires: list[Wire] = []
        self.application: Callable[[Exchange], Any] = self.ok
        self.site = GatewaySite(
            self.clock,
            limits=self.limits,
            observe=lambda exchange, seconds: self.observed.append((exchange.status, seconds)),
            refused=lambda peer, error: self.refused.append(error),
            hosts=lambda host: host.partition(b":")[0] == b"a.invalid",
        )
        self.site.routes.append(self.route)
        self.addCleanup(self.check_clean)

    def route(self, exchange: Exchange) -> Any:
        if not exchange.head.target.startswith(b"/x"):
            return None
        return self.work

    def work(self, exchange: Exchange) -> Any:
        self.seen.append(exchange)
        return self.application(exchange)

    def check_clean(self) -> None:
        for wire in self.wires:
            wire.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self) -> Wire:
        wire = Wire(self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 4711)))
        self.wires.append(wire)
        return wire

    def ask(self, data: bytes) -> Wire:
        wire = self.connect()
        wire.receive(data)
        return wire

    async def ok(self, exchange: Exchange) -> None:
        exchange.respond(200, [], exchange.head.target)

    async def upload(self, exchange: Exchange) -> None:
        received = 0

        def count(piece: bytes) -> None:
            nonlocal received
            received += len(piece)

        await exchange.body.deliver(count)
        exchange.respond(200, [], b"%d" % received)

    async def forbid(self, exchange: Exchange) -> None:
        raise errors.Forbidden

    def bug(self, exchange: Exchange) -> Any:
        raise ZeroDivisionError("the secret of line 7")

    def never(self, exchange: Exchange) -> Any:
        self.waiting: Deferred[None] = Deferred()
        return self.wait(self.waiting)

    async def wait(self, waiting: Deferred[None]) -> None:
        try:
            await waiting
        except CancelledError:
            self.cancelled = True
            raise

    cancelled = False


class OneAtATimeTests(ChannelCase):
    """Requests and answers on one connection."""

    def test_keep_alive(self) -> None:
        """One request after the other on one connection; each is observed once."""
        wire = self.connect()
        for _ in range(3):
            wire.receive(request())
            self.assertIn(b"content-length: 2\r\n", wire.sent)
            self.assertNotIn(b"connection:", wire.sent)
            self.assertTrue(wire.taken().endswith(b"\r\n\r\n/x"))
        self.assertEqual([status for status, _ in self.observed], [200] * 3)

    def test_every_cut(self) -> None:
        """It makes no difference where the network cuts two requests."""
        self.application = self.upload
        data = request(b"PUT /x", b"content-length: 5\r\n", b"hello")
        data += request(b"PUT /x", b"transfer-encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n")
        for cut in range(1, len(data)):
            wire = self.ask(data[:cut])
            self.clock.advance(0)
            wire.receive(data[cut:])
            self.clock.advance(0)
            self.assertEqual(
                [body[-1:] for body in bytes(wire.sent).split(b"HTTP/1.1 200 OK")[1:]], [b"5", b"3"]
            )
            wire.end()

    def test_pipeline(self) -> None:
        """A thousand pipelined requests are answered in order, one at a time, from a small buffer."""
        self.application = self.later
        wire = self.connect()
        wire.inbox += b"".join(request(b"GET /x%d" % i, b"z: " + b"z" * 200 + b"\r\n") for i in range(1000))
        largest = 0
        while len(self.seen) < 1000:
            wire.receive(b"")
            largest = max(largest, len(wire.protocol._pipelined))  # type: ignore[attr-defined]  # an HttpChannel
            self.assertEqual(len(self.seen), statuses(wire.sent).count(200) + 1)
            self.turn.callback(None)
            self.clock.advance(0)
        self.turn.callback(None)
        self.assertEqual(re.findall(rb"\r\n\r\n/x([0-9]+)", wire.sent), [b"%d" % i for i in range(1000)])
        self.assertLess(largest, 16 * 1024 + 65536)

    async def later(self, exchange: Exchange) -> None:
        self.turn: Deferred[None] = Deferred()
        await self.turn
        exchange.respond(200, [], exchange.head.target)

    def test_pipeline_bounded(self) -> None:
        """While a request is in work no more is read than a small buffer holds."""
        self.application = self.later
        wire = self.ask(request())
        wire.receive(request() * 100_000)
        self.assertFalse(wire.reading)
        self.assertGreater(len(wire.inbox), 3_000_000)
        self.turn.callback(None)
        self.assertTrue(wire.reading)

    def test_flat_stack(self) -> None:
        """Pipelined requests that are answered at once do not grow the stack and end with the connection."""
        wire = self.ask(request() * 1000)
        self.assertEqual(len(self.seen), 1)
        self.clock.advance(0)
        self.assertEqual(len(self.seen), 1000)
        wire.receive(request() * 2)
        wire.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_head(self) -> None:
        """HEAD has the length and no body."""
        wire = self.ask(request(b"HEAD /x"))
        self.assertIn(b"content-length: 2\r\n", wire.sent)
        self.assertTrue(wire.sent.endswith(b"\r\n\r\n"))
        self.assertFalse(wire.closed)
        self.application = self.forbid
        wire.receive(request(b"HEAD /x"))
        self.assertTrue(wire.sent.endswith(b"\r\n\r\n"))

    def test_no_content(self) -> None:
        """204 comes without a length, which would contradict it."""
        self.application = self.no_content
        wire = self.ask(request())
        self.assertNotIn(b"content-length", wire.sent)
        self.assertFalse(wire.closed)

    def test_no_content_after_delete(self) -> None:
        """The one exception: vdsm wants the length of nothing when it removes a ticket."""
        self.application = self.no_content
        self.assertIn(b"content-length: 0\r\n", self.ask(request(b"DELETE /x")).sent)

    async def no_content(self, exchange: Exchange) -> None:
        exchange.respond(204)

    def test_closing(self) -> None:
        """HTTP/1.0 and ``Connection: close`` end after their answer."""
        for data in (b"GET /x HTTP/1.0\r\nhost: a.invalid\r\n\r\n", request(fields=b"connection: close\r\n")):
            wire = self.ask(data)
            self.assertEqual(statuses(wire.sent), [200])
            self.assertIn(b"connection: close\r\n", wire.sent)
            self.assertTrue(wire.closed)
            wire.receive(request())
            self.assertEqual(statuses(wire.sent), [200])

    def test_drain(self) -> None:
        """Draining closes what is idle at once, and what is in work after its answer."""
        idle = self.ask(request())
        self.application = self.later
        busy = self.ask(request())
        self.site.drain()
        self.assertTrue(idle.closed)
        self.assertFalse(busy.closed)
        self.turn.callback(None)
        self.assertIn(b"connection: close\r\n", busy.sent)
        self.assertTrue(busy.closed)
        self.assertEqual(statuses(self.ask(request()).sent), [503])


class AnswerTests(ChannelCase):
    """Answers keep what they announced."""

    async def announce(self, exchange: Exchange) -> None:
        exchange.start(200, [], 5)
        exchange.write(self.body)
        exchange.finish()

    def test_short_and_long(self) -> None:
        """Too few or too many bytes cut the connection: a part is never taken for the whole."""
        self.application = self.announce
        for body in (b"hell", b"hello!"):
            self.body = body
            wire = self.ask(request())
            self.assertTrue(wire.aborted)
            self.assertFalse(wire.closed)
            self.assertNotIn(b"!", wire.sent)
        self.body = b"hello"
        self.assertFalse(self.ask(request()).aborted)

    def test_injection(self) -> None:
        """A field that would break out of its line is a bug, and nothing of it is sent."""
        self.application = self.inject
        wire = self.ask(request())
        self.assertEqual(statuses(wire.sent), [])
        self.assertTrue(wire.aborted)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    async def inject(self, exchange: Exchange) -> None:
        exchange.respond(200, [(b"x", b"a\r\nset-cookie: b")])

    def test_bug(self) -> None:
        """A bug is a blank 500 with a number; the traceback is in the log only, under that number."""
        self.application = self.bug
        wire = self.ask(request())
        self.assertEqual(statuses(wire.sent), [500])
        self.assertRegex(bytes(wire.sent), rb"check logs for incident [0-9a-f]{8}\n$")
        self.assertNotIn(b"secret", wire.sent)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([error.reason for error in self.refused], ["incident"])

    def test_silent_application(self) -> None:
        """An application that ends without an answer, or by a stray cancellation, is a bug as well."""
        for ended, error in ((self.silence, RuntimeError), (self.stray, CancelledError)):
            self.application = ended
            self.assertEqual(statuses(self.ask(request()).sent), [500])
            self.assertEqual(len(self.flushLoggedErrors(error)), 1)

    async def silence(self, exchange: Exchange) -> None:
        pass

    async def stray(self, exchange: Exchange) -> None:
        raise CancelledError

    def test_answered_twice(self) -> None:
        """There is no second answer to one request: it would pass for that to the next."""
        self.application = self.twice
        wire = self.ask(request())
        self.assertEqual(statuses(wire.sent), [200])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def twice(self, exchange: Exchange) -> None:
        exchange.respond(200)
        exchange.respond(200)

    def test_late_error(self) -> None:
        """An error in the middle of an answer can only cut."""
        self.application = self.break_off
        wire = self.ask(request())
        self.assertEqual(statuses(wire.sent), [200])
        self.assertTrue(wire.aborted)

    async def break_off(self, exchange: Exchange) -> None:
        exchange.start(200, [], 5)
        exchange.flush()
        raise errors.UpstreamFailed

    def test_second_thoughts(self) -> None:
        """Until the first byte is there, an error still takes the place of the answer."""
        self.application = self.change_mind
        wire = self.ask(request())
        self.assertEqual(statuses(wire.sent), [502])
        self.assertFalse(wire.aborted)

    async def change_mind(self, exchange: Exchange) -> None:
        exchange.start(200, [], 5)
        raise errors.UpstreamFailed

    def test_together(self) -> None:
        """The head goes out in one piece with the first bytes of the body."""
        self.application = self.say_hello
        pieces: list[bytes] = []
        self.patch(channel.HttpChannel, "write", lambda _, data: pieces.append(data))
        self.ask(request())
        self.assertEqual([piece.count(b"HTTP/1.1 200") for piece in pieces], [1, 0])
        self.assertTrue(pieces[0].endswith(b"he"))

    async def say_hello(self, exchange: Exchange) -> None:
        exchange.start(200, [], 5)
        exchange.write(b"he")
        exchange.write(b"llo")
        exchange.finish()

    def test_refusal(self) -> None:
        """A refusal is plain text that no browser takes for a page, and is told to the site."""
        self.application = self.forbid
        wire = self.ask(request())
        self.assertEqual(statuses(wire.sent), [403])
        self.assertIn(b"content-type: text/plain; charset=UTF-8\r\n", wire.sent)
        self.assertIn(b"x-content-type-options: nosniff\r\n", wire.sent)
        self.assertEqual([error.status for error in self.refused], [403])

    def test_client_leaves(self) -> None:
        """When the client leaves, what runs for it is cancelled, and it is observed once."""
        self.application = self.never
        wire = self.ask(request())
        wire.end()
        self.assertTrue(self.cancelled)
        self.assertEqual([status for status, _ in self.observed], [0])

    def test_client_leaves_upload(self) -> None:
        """An upload that is cut off fails; it never ends well."""
        self.application = self.upload
        wire = self.ask(request(b"PUT /x", b"content-length: 5\r\n", b"hell"))
        wire.end()
        self.assertEqual(wire.sent, b"")
        self.assertEqual(self.refused, [])

    def test_lost_once(self) -> None:
        """An answer is observed once, even if the connection goes while its request is read away."""
        self.application = self.forbid
        wire = self.ask(request(b"PUT /x", b"content-length: 1000000\r\n"))
        wire.end()
        self.assertEqual([status for status, _ in self.observed], [403])

    def test_while_connected(self) -> None:
        """What was begun once for a connection ends once with it."""
        told: list[str] = []
        self.application = self.ok
        wire = self.ask(request())
        for _ in range(2):
            self.seen[0].while_connected("key", lambda: told.append("made"), lambda: told.append("lost"))
        wire.end()
        self.assertEqual(told, ["made", "lost"])


class RefusedTests(ChannelCase):
    """What is refused before any work."""

    def test_heads(self) -> None:
        """A bad head is answered with its status, closes, and reaches nobody."""
        long = b"a" * 20000
        for data, status in (
            (b"GET /x HTTP/1.1\r\n\r\n", 400),
            (request(fields=b"host: a.invalid\r\n"), 400),
            (request(b"GET http://a.invalid/x"), 400),
            (request(b"GET /x", b"content-length: 1\r\ntransfer-encoding: chunked\r\n"), 400),
            (request(b"GET /x", b"content-length: " + b"9" * 5000 + b"\r\n"), 400),
            (b"GET /x HTTP/1.1\nhost: a.invalid\n\n", 400),
            (request(fields=b"expect: other\r\n"), 417),
            (b"GET /" + long, 414),
            (request(fields=b"x: " + long + b"\r\n"), 431),
            (request(fields=b"x: y\r\n" * 100), 431),
            (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400),
            (b"GET /<script> HTTP/1.1\r\nhost: <script>\r\n\r\n", 400),
        ):
            wire = self.ask(data + request())
            self.assertEqual(statuses(wire.sent), [status], data[:40])
            self.assertIn(b"connection: close\r\n", wire.sent)
            self.assertIn(b"x-content-type-options: nosniff\r\n", wire.sent)
            self.assertNotIn(b"<script>", wire.sent)
            # Half closed: more of it may be on its way, and a reset would take the answer with it.
            self.assertTrue(wire.half_closed and not wire.closed and wire.reading)
            self.clock.advance(5)
            self.assertTrue(wire.aborted)
        self.assertEqual(self.seen, [])

    def test_linger_bounded(self) -> None:
        """After a bad head only so much more is read."""
        wire = self.ask(b"nonsense\r\n\r\n")
        wire.receive(bytes(16 << 20))
        self.assertFalse(wire.aborted)
        wire.receive(b"1")
        self.assertTrue(wire.aborted)

    def test_before_work(self) -> None:
        """Unknown hosts, codings and methods reach no application."""
        self.site.routes.insert(0, lambda exchange: self.bug if exchange.head.target == b"/never" else None)
        for data, status in (
            (b"GET /x HTTP/1.1\r\nhost: b.invalid\r\n\r\n", 421),
            (b"GET /x HTTP/1.1\r\nhost: b.invalid:80\r\n\r\n", 421),
            (request(b"PUT /x", b"content-encoding: gzip\r\ncontent-length: 1\r\n", b"a"), 415),
            (request(b"GET /x", b"content-encoding: gzip\r\ncontent-encoding: identity\r\n"), 415),
            (request(b"CONNECT a.invalid:1"), 405),
            (request(b"TRACE /y"), 405),
            (request(b"get /y"), 405),
            (request(b"FROB /y"), 405),
            (request(b"GET /y", b"x-http-method-override: DELETE\r\n"), 404),
            (request(b"GET //b.invalid/%2f.."), 404),
            (request(b"GET /y?redirect=http://b.invalid/"), 404),
        ):
            wire = self.ask(data)
            self.assertEqual(statuses(wire.sent), [status], data)
            self.assertNotIn(b"location", wire.sent.lower())
        self.assertEqual(self.seen, [])

    def test_counted_once(self) -> None:
        """What is refused at the door is counted by whoever refused it, and not a second time."""

        def admit(exchange: Exchange) -> None:
            raise errors.TooManyRequests(retry_after=60)

        self.site.admit = admit
        wire = self.ask(request())
        self.assertEqual(statuses(wire.sent), [429])
        self.assertIn(b"retry-after: 60\r\n", wire.sent)
        self.assertEqual((self.seen, self.refused), ([], []))

    def test_bug_at_the_door(self) -> None:
        """A bug before any application is a 500 like any other."""
        self.site.admit = self.bug
        self.assertEqual(statuses(self.ask(request()).sent), [500])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_override_ignored(self) -> None:
        """The method and the peer are those of the connection, whatever the fields claim."""
        forged = (
            b"x-http-method-override: DELETE\r\nx-forwarded-for: 192.0.2.9\r\nforwarded: for=192.0.2.9\r\n"
        )
        wire = self.ask(request(fields=forged))
        self.assertEqual((self.seen[0].head.method, self.seen[0].peer), (b"GET", "192.0.2.1"))
        self.assertEqual(statuses(wire.sent), [200])

    def test_broken_chunks_with_head(self) -> None:
        """Malformed chunks that come with the head are refused before the application runs."""
        self.application = self.bug
        wire = self.ask(request(b"PUT /x", b"transfer-encoding: chunked\r\n", b"zz\r\n"))
        self.assertEqual(statuses(wire.sent), [400])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_broken_chunks(self) -> None:
        """Malformed chunks later on end the body, and what follows them is no request."""
        self.application = self.upload
        wire = self.ask(request(b"PUT /x", b"transfer-encoding: chunked\r\n", b"3\r\nabc\r\n"))
        wire.receive(b"zz\r\n0\r\n\r\n" + request())
        wire.receive(request())
        self.assertEqual(statuses(wire.sent), [400])
        self.assertEqual(len(self.seen), 1)
        self.assertIn(b"connection: close\r\n", wire.sent)

    def test_broken_chunks_unread(self) -> None:
        """Malformed chunks of a body nobody asked for end the application."""
        self.application = self.never
        wire = self.ask(request(b"PUT /x", b"transfer-encoding: chunked\r\n"))
        wire.protocol.dataReceived(b"zz\r\n")
        self.assertEqual(statuses(wire.sent), [400])
        self.assertTrue(self.cancelled)


class ExpectTests(ChannelCase):
    """``100 Continue`` and bodies nobody wants."""

    def put(self, length: int = 1 << 30, body: bytes = b"") -> Wire:
        return self.ask(request(b"PUT /x", b"expect: 100-continue\r\ncontent-length: %d\r\n" % length, body))

    def test_refusal_first(self) -> None:
        """A refusal comes instead of ``100 Continue``, never after it."""
        self.application = self.forbid
        wire = self.put()
        self.assertEqual(statuses(wire.sent), [403])
        self.assertIn(b"connection: close\r\n", wire.sent)

    def test_too_large(self) -> None:
        """A body that is too large for an ordinary page is refused at its head."""
        wire = self.ask(request(b"PUT /y", b"expect: 100-continue\r\ncontent-length: 65537\r\n"))
        self.assertEqual(statuses(wire.sent), [413])
        wire = self.ask(request(b"PUT /y", b"content-length: 9999999999999999999\r\n"))
        self.assertEqual(statuses(wire.sent), [413])

    def test_continue(self) -> None:
        """``100 Continue`` goes out when the application wants the body, once, and only if asked for."""
        self.application = self.upload
        wire = self.put(5)
        self.assertEqual(wire.taken(), b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.receive(b"hello")
        self.assertEqual(statuses(wire.sent), [200])
        wire = self.ask(request(b"PUT /x", b"content-length: 5\r\n"))
        self.assertEqual(wire.sent, b"")

    def test_no_continue_after(self) -> None:
        """Once the answer has begun there is no ``100 Continue`` any more."""
        self.application = self.answer_first
        wire = self.put(5)
        self.assertEqual(statuses(wire.sent), [200])
        wire.receive(b"hello")
        self.assertTrue(wire.sent.endswith(b"\r\n\r\nok"))

    async def answer_first(self, exchange: Exchange) -> None:
        exchange.start(200, [], 2)
        await exchange.body.deliver(lambda piece: None)
        exchange.write(b"ok")
        exchange.finish()

    def test_nothing_read_before(self) -> None:
        """Until the application wants the body it stays in the network."""
        self.application = self.never
        wire = self.ask(request(b"PUT /x", b"content-length: 1000000\r\n"))
        wire.receive(bytes(1000000))
        self.assertFalse(wire.reading)
        self.assertEqual(len(wire.inbox), 1000000)

    def test_refused_upload(self) -> None:
        """Who sends a gigabyte and is refused is answered at once, and read for 16 MiB at most."""
        self.application = self.forbid
        wire = self.ask(request(b"PUT /x", b"content-length: %d\r\n" % (1 << 30), bytes(1000)))
        self.assertEqual(statuses(wire.sent), [403])
        for _ in range(256):
            wire.receive(bytes(65536))
        self.assertFalse(wire.closed)
        self.assertEqual(wire.protocol._exchange.body._queue, type(self.seen[0].body._queue)())  # type: ignore[attr-defined]  # an HttpChannel
        wire.receive(bytes(65536))
        self.assertTrue(wire.closed)
        self.assertFalse(wire.aborted)

    def test_refused_slow_upload(self) -> None:
        """Who is refused and goes on slowly is read for five seconds at most."""
        self.application = self.forbid
        wire = self.ask(request(b"PUT /x", b"content-length: %d\r\n" % (1 << 30)))
        for _ in range(9):
            self.clock.advance(0.5)
            wire.receive(b"a")
        self.assertFalse(wire.closed)
        self.clock.advance(0.5)
        self.assertTrue(wire.closed)
        self.clock.advance(5)
        self.assertTrue(wire.aborted)

    def test_small_rest(self) -> None:
        """A small body that nobody wants is read away, and the connection goes on."""
        self.application = self.forbid
        wire = self.ask(request(b"PUT /x", b"content-length: 5\r\n", b"he"))
        self.assertNotIn(b"connection: close", wire.sent)
        wire.receive(b"llo" + request())
        self.clock.advance(0)
        self.assertEqual(statuses(wire.sent), [403, 403])


class TimeTests(ChannelCase):
    """Deadlines."""

    def test_silence(self) -> None:
        """Who connects and says nothing is hung up on."""
        wire = self.connect()
        self.clock.advance(9.9)
        self.assertFalse(wire.closed)
        self.clock.advance(0.2)
        self.assertTrue(wire.closed)
        self.assertEqual(wire.sent, b"")
        self.clock.advance(5)
        self.assertTrue(wire.aborted)

    def trickle(self, wire: Wire, data: bytes) -> float:
        """Send a byte every second until it is enough for the other side; return the seconds."""
        began = self.clock.seconds()
        for byte in data * 100:
            if wire.closed or wire.half_closed:
                break
            wire.receive(bytes([byte]))
            self.clock.advance(1)
        self.assertTrue(wire.closed or wire.half_closed)
        return self.clock.seconds() - began

    def test_slow_head(self) -> None:
        """The deadline for a head is one: a byte every second does not move it."""
        wire = self.connect()
        self.assertLessEqual(self.trickle(wire, b"GET /x HTTP/1.1\r\n" + b"x: y\r\n" * 20), 11)
        self.assertEqual(statuses(wire.sent), [408])
        self.assertIn(b"connection: close\r\n", wire.sent)

    def test_slow_second_head(self) -> None:
        """Nor does it on a connection that has served before."""
        wire = self.ask(request())
        wire.taken()
        self.clock.advance(50)
        self.assertLessEqual(self.trickle(wire, b"GET /x HTTP/1.1\r\n" + b"x: y\r\n" * 20), 11)
        self.assertEqual(statuses(wire.sent), [408])

    def test_empty_lines(self) -> None:
        """Empty lines do not move it either."""
        wire = self.connect()
        self.assertLessEqual(self.trickle(wire, b"\r\n"), 11)

    def test_idle(self) -> None:
        """A connection at rest is closed after a minute, without a word."""
        wire = self.ask(request())
        wire.taken()
        self.clock.advance(59.9)
        self.assertFalse(wire.closed)
        self.clock.advance(0.2)
        self.assertTrue(wire.closed)
        self.assertEqual(wire.sent, b"")

    def test_allowed_idle(self) -> None:
        """An application may allow more, never less."""
        for seconds, last in ((300.0, 300), (1.0, 60)):
            self.application = self.ok
            wire = self.connect()
            wire.receive(request())
            self.seen[-1].allow_idle(seconds)
            wire.receive(request())
            self.clock.advance(last - 1)
            self.assertFalse(wire.closed)
            self.clock.advance(1.1)
            self.assertTrue(wire.closed)

    def test_half_a_head(self) -> None:
        """Half a head, then the end: nobody is bothered."""
        wire = self.ask(request()[:-5])
        wire.end()
        self.assertEqual((self.seen, self.observed, wire.sent), ([], [], b""))

    def test_body_stalls(self) -> None:
        """A body that does not come is given up with 408 after a minute."""
        self.application = self.upload
        wire = self.ask(request(b"PUT /x", b"content-length: 1000000\r\n"))
        self.clock.advance(59)
        self.assertEqual(wire.sent, b"")
        self.clock.advance(1.1)
        self.assertEqual(statuses(wire.sent), [408])
        self.assertIn(b"connection: close\r\n", wire.sent)
        self.clock.advance(5.1)
        self.assertTrue(wire.closed)

    def test_body_stalls_answered(self) -> None:
        """An application that answers all the same is still held to its deadlines."""
        self.application = self.stream_anyway
        wire = self.ask(request(b"PUT /x", b"content-length: 1000000\r\n"))
        self.clock.advance(60.1)
        self.assertEqual(statuses(wire.sent), [200])
        wire.producer.pauseProducing()
        self.clock.pump([30] * 5)
        self.assertTrue(wire.aborted)

    async def stream_anyway(self, exchange: Exchange) -> None:
        try:
            await exchange.body.deliver(lambda piece: None)
        except errors.RequestTimeout:
            await self.stream(exchange)

    def test_body_trickles(self) -> None:
        """A body must come with 256 bytes a second, measured over a minute."""
        self.application = self.upload
        for rate, expected in ((250, [408]), (260, [])):
            wire = self.ask(request(b"PUT /x", b"content-length: 1000000\r\n"))
            for _ in range(130):
                wire.receive(bytes(rate))
                self.clock.advance(1)
            self.assertEqual(statuses(wire.sent), expected)
            wire.end()

    def test_body_not_wanted(self) -> None:
        """While the application has paused the body nobody is to blame for its silence."""
        self.application = self.upload
        wire = self.ask(request(b"PUT /x", b"content-length: 1000000\r\n", b"a"))
        body = self.seen[0].body
        for _ in range(10):
            body.pauseProducing()
            self.clock.advance(59)
            body.resumeProducing()
            self.clock.advance(1.1)
        self.assertEqual(wire.sent, b"")
        self.clock.advance(120)
        self.assertEqual(statuses(wire.sent), [408])

    async def stream(self, exchange: Exchange) -> None:
        self.producer = Producer()
        exchange.start(200, [], 1000000)
        exchange.flush()
        exchange.registerProducer(self.producer, self.push)
        await Deferred()

    push = True

    def test_write_stalls(self) -> None:
        """A client that takes nothing for a minute is cut off; one that takes something is not."""
        self.application = self.stream
        wire = self.ask(request())
        for _ in range(10):
            wire.producer.pauseProducing()
            self.clock.advance(50)
            wire.producer.resumeProducing()
            self.seen[0].write(b"more")
        self.assertFalse(wire.aborted)
        self.clock.advance(1000)
        self.assertFalse(wire.aborted)
        wire.producer.pauseProducing()
        self.assertEqual(self.producer.told[-1], "pause")
        self.clock.pump([30] * 5)
        self.assertTrue(wire.aborted)

    def test_pull_stalls(self) -> None:
        """The same holds for pages that are pulled."""
        self.push = False
        self.application = self.stream
        wire = self.ask(request())
        self.assertFalse(wire.streaming)
        self.clock.pump([30] * 5)
        self.assertTrue(wire.aborted)

    def test_waiting_is_no_stall(self) -> None:
        """An application may think as long as it wants."""
        self.application = self.never
        wire = self.ask(request())
        self.clock.pump([60] * 60)
        self.assertFalse(wire.aborted or wire.closed)


class SocketTests(ReactorTestCase):
    """What only a kernel shows."""

    def serve(self, application: Any, **limits: Any) -> Any:
        from twisted.internet import reactor

        self.reactor = cast(Any, reactor)
        self.site = site = GatewaySite(self.reactor, limits=HttpLimits(**limits))
        site.routes.append(lambda exchange: application)
        port = self.reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return port.getHost().port

    def talk(self, port: int, data: bytes, wait: float = 0.0) -> Deferred[bytes]:
        """Send all of *data*, whatever comes back, and only then, after *wait* seconds, read to the end."""

        def run() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
                peer.sendall(data)
                time.sleep(wait)
                received = b""
                while piece := peer.recv(1 << 16):
                    received += piece
                return received

        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), run).addCallback(self.settled)

    async def _settled(self) -> None:
        while self.site._channels:
            await deferLater(self.reactor, 0.01, lambda: None)

    def settled(self, result: bytes) -> Deferred[bytes]:
        """Pass *result* on once every connection is gone."""
        return Deferred.fromCoroutine(self._settled()).addCallback(lambda _: result)

    def test_refusal_arrives(self) -> Deferred[None]:
        """The refusal of a bad head arrives, although more than the head is on its way."""

        async def never(exchange: Exchange) -> None:
            raise AssertionError

        port = self.serve(never)
        talk = self.talk(port, b"GET /" + bytes(4 << 20))
        return talk.addCallback(lambda data: self.assertEqual(statuses(data), [414]))

    def test_early_refusal_arrives(self) -> Deferred[None]:
        """So does the refusal of an upload that goes on."""

        async def forbid(exchange: Exchange) -> None:
            raise errors.Forbidden

        port = self.serve(forbid)
        length = b"content-length: %d\r\n" % (8 << 20)
        talk = self.talk(port, request(b"PUT /x", length, bytes(8 << 20)))
        return talk.addCallback(lambda data: self.assertEqual(statuses(data), [403]))

    def test_reader_stalls(self) -> Deferred[None]:
        """A client that takes nothing is cut off, and what sends to it is stopped."""
        producer = Producer()
        over: Deferred[None] = Deferred()

        async def stream(exchange: Exchange) -> None:
            exchange.start(200, [], 1 << 30)
            exchange.registerProducer(producer, True)
            exchange.write(bytes(16 << 20))
            try:
                await Deferred()
            except CancelledError:
                over.callback(None)
                raise

        port = self.serve(stream, write_idle_timeout=0.2)
        peer = socket.create_connection(("127.0.0.1", port))
        peer.sendall(request())
        self.addCleanup(peer.close)
        over.addCallback(lambda _: self.assertEqual(producer.told, ["pause", "stop"]))
        return over.addCallback(lambda _: Deferred.fromCoroutine(self._settled()))


class ShortPeriodTests(ChannelCase):
    """The least rate of a body is one of bytes per second, whatever the period."""

    limits = HttpLimits(write_idle_timeout=10, keepalive_timeout=5)

    def test_idle(self) -> None:
        """The time between requests is its own."""
        wire = self.ask(request())
        self.clock.advance(5)
        self.assertTrue(wire.closed)

    def test_rate(self) -> None:
        """A body above it passes also where a shorter time makes us look more often."""
        self.application = self.upload
        wire = self.ask(request(b"PUT /x", b"content-length: 1000000\r\n"))
        for _ in range(60):
            wire.receive(bytes(300))
            self.clock.advance(1)
        self.assertEqual(wire.sent, b"")
