from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.http_client import Call, HttpConnection, StaleConnection, UpstreamPool
from gateway.wire.http_head import ResponseHead
from tests.core.test_channel import Wire
from tests.support import Producer

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class ClientCase(SynchronousTestCase):
    """Connections to an upstream that the test speaks for."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pool = UpstreamPool(self.clock, keep=2, idle_time=30)
        self.addCleanup(self.check_clean)

    def check_clean(self) -> None:
        self.pool.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self, key: str = "a") -> tuple[HttpConnection, Wire]:
        connection = HttpConnection()
        wire = Wire(connection)
        self.pool.adopt(key, connection)
        return connection, wire

    def get(self, method: bytes = b"GET") -> tuple[Call, Wire]:
        connection, wire = self.connect()
        return connection.call(method, b"/images/1", [(b"host", b"a.invalid")], 0), wire

    def put(self, length: int = 5) -> tuple[Call, Wire]:
        connection, wire = self.connect()
        fields = [(b"host", b"a.invalid"), (b"content-length", b"%d" % length)]
        return connection.call(b"PUT", b"/images/1", fields, length), wire

    def read(self, call: Call, limit: int = 100) -> Deferred[bytes]:
        return Deferred.fromCoroutine(call.read(limit))

    def done(self, data: bytes = OK) -> Wire:
        call, wire = self.get()
        wire.receive(data)
        self.successResultOf(self.read(call))
        call.release()
        return wire

    def head(self, call: Call) -> ResponseHead:
        return self.successResultOf(call.head)


class AnswerTests(ClientCase):
    """What an upstream may answer."""

    def test_every_cut(self) -> None:
        """It makes no difference where the network cuts an answer, nor how its body is framed."""
        for data in (
            OK,
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
            b"2\r\nhe\r\n3;x\r\nllo\r\n0\r\nx: y\r\n\r\n",
        ):
            for cut in range(len(data)):
                call, wire = self.get()
                wire.receive(data[:cut])
                wire.receive(data[cut:])
                self.assertEqual(self.head(call).status, 200)
                result = self.read(call)
                wire.receive(b"")
                self.assertEqual(self.successResultOf(result), b"hello")
                call.release()
                self.assertFalse(wire.aborted)
                self.assertIsNotNone(self.pool.take("a"))

    def test_until_the_end(self) -> None:
        """A body without a length ends with the connection, in good order; then it is complete."""
        call, wire = self.get()
        wire.receive(b"HTTP/1.1 200 OK\r\n\r\nhel")
        result = self.read(call)
        wire.receive(b"lo")
        self.assertNoResult(result)
        wire.end()
        self.assertEqual(self.successResultOf(result), b"hello")
        call.release()
        self.assertIsNone(self.pool.take("a"))

    def test_cut_short(self) -> None:
        """No other body that is cut short passes for a whole one, however orderly the end."""
        for data, clean in (
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", True),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", False),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", True),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", True),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", True),
            (b"HTTP/1.1 200 OK\r\n\r\nhell", False),
        ):
            call, wire = self.get()
            wire.receive(data)
            result = self.read(call)
            wire.end(clean)
            self.failureResultOf(result, errors.UpstreamFailed)
            self.assertFalse(call.complete)

    def test_malformed(self) -> None:
        """An answer that could be read in two ways fails the call, and its connection goes."""
        head = b"HTTP/1.1 200 OK\r\n"
        for data in (
            b"HTTP/1.1 200 OK\r\nx: a\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\nx: a\n\n",
            head + b"x: a\r\n b\r\n\r\n",
            head + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            head + b"content-length: 5\r\ncontent-length: 5\r\n\r\n",
            head + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
            head + b"content-length: 3, 3\r\n\r\n",
            head + b"content-length: " + b"9" * 5000 + b"\r\n\r\n",
            head + b"transfer-encoding: gzip\r\n\r\n",
            head + b"x\0: a\r\n\r\n",
            head + b"x: a\0\r\n\r\n",
            head + b"x: a\r\n" * 5000 + b"\r\n",
            head + b"x: " + b"a" * 40000,
            b"HTTP/1.1 99999 OK\r\n\r\n",
            b"HTTP/1.1 999 OK\r\n\r\n",
            b"HTTP/1.1 200 O\x01K\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"\r\n" + OK,
            b"<html>\r\n\r\n",
        ):
            call, wire = self.get()
            wire.receive(data)
            failure = self.failureResultOf(call.head, errors.UpstreamFailed)
            self.assertEqual(failure.value.reason, "malformed", data[:60])
            self.assertTrue(wire.aborted)
            wire.end()
            self.assertIsNone(self.pool.take("a"))

    def test_malformed_body(self) -> None:
        """Malformed chunks fail the body that is being read."""
        call, wire = self.get()
        wire.receive(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        result = self.read(call)
        wire.receive(b"zz\r\n")
        self.assertEqual(self.failureResultOf(result, errors.UpstreamFailed).value.reason, "malformed")
        self.assertTrue(wire.aborted)

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=10),
                st.sampled_from(
                    [
                        b"HTTP/1.1 200 OK\r\n",
                        b"HTTP/1.1 100 X\r\n\r\n",
                        b"content-length: 3\r\n",
                        b"\r\n",
                        b"abc",
                    ]
                ),
                st.sampled_from([b"transfer-encoding: chunked\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"]),
            ),
            max_size=10,
        )
    )
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Whatever an upstream says is an answer or its failure, never a bug."""
        connection = HttpConnection()
        wire = Wire(connection)
        call = connection.call(b"GET", b"/", [(b"host", b"a.invalid")], 0)
        outcome: list[object] = []
        call.head.addBoth(outcome.append)
        for piece in pieces:
            wire.receive(piece)
        wire.end()
        self.assertEqual(len(outcome), 1)
        if isinstance(outcome[0], Failure):
            self.assertIsNotNone(outcome[0].check(errors.UpstreamFailed))
        else:
            self.assertIsInstance(outcome[0], ResponseHead)

    def test_limit(self) -> None:
        """A body above what the reader takes fails, also when it comes in one piece."""
        for data in (OK, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"):
            call, wire = self.get()
            wire.receive(data)
            result = self.read(call, 4)
            wire.end()
            self.assertEqual(self.failureResultOf(result, errors.UpstreamFailed).value.reason, "too_long")
            self.assertTrue(wire.aborted)
        call, wire = self.get()
        wire.receive(OK)
        self.assertEqual(self.successResultOf(self.read(call, 5)), b"hello")

    def test_head(self) -> None:
        """The answer to HEAD has no body, whatever its length says."""
        call, wire = self.get(b"HEAD")
        wire.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
        self.assertTrue(call.complete)
        call.release()
        self.assertFalse(wire.aborted)


class ReuseTests(ClientCase):
    """When a connection serves again."""

    def test_exact_requests(self) -> None:
        """The upstream sees exactly the requests that were made, and never one more."""
        connection, wire = self.connect()
        call = connection.call(b"GET", b"/1", [(b"host", b"a.invalid")], 0)
        wire.receive(OK)
        self.read(call)
        call.release()
        again = self.pool.take("a")
        assert again is connection
        call = again.call(b"PUT", b"/2", [(b"host", b"a.invalid"), (b"content-length", b"29")], 29)
        smuggled = b"GET /admin HTTP/1.1\r\nhost:\r\n\r\n"[:29]
        call.write(smuggled)
        self.assertRaises(errors.GatewayError, call.write, b"GET /admin")
        expected = b"GET /1 HTTP/1.1\r\nhost: a.invalid\r\n\r\n"
        expected += b"PUT /2 HTTP/1.1\r\nhost: a.invalid\r\ncontent-length: 29\r\n\r\n" + smuggled
        self.assertEqual(wire.taken(), expected)
        self.assertTrue(wire.aborted)

    def test_framing(self) -> None:
        """A request whose fields frame another body than it has, or where none belongs, is never sent."""
        connection, wire = self.connect()
        for method, fields, length in (
            (b"PUT", [(b"content-length", b"4")], 5),
            (b"PUT", [(b"content-length", b"5"), (b"content-length", b"5")], 5),
            (b"PUT", [(b"Content-Length", b"5"), (b"transfer-encoding", b"chunked")], 5),
            (b"PUT", [(b"transfer-encoding", b"chunked")], 0),
            (b"PUT", [], 5),
            (b"GET", [(b"content-length", b"5")], 5),
            (b"DELETE", [(b"content-length", b"5")], 5),
            (b"OPTIONS", [(b"content-length", b"5")], 5),
            (b"GET", [(b"x", b"a\r\nb: c")], 0),
            (b"GET\r\n", [], 0),
        ):
            self.assertRaises(ValueError, connection.call, method, b"/", fields, length)
        self.assertEqual(wire.sent, b"")
        connection.call(b"PUT", b"/", [(b"content-length", b"0")], 0)

    def test_bytes_after(self) -> None:
        """Bytes that follow an answer end the connection: they would pass for the next answer."""
        call, wire = self.get()
        wire.receive(OK + b"HTTP/1.1 200 OK\r\n\r\n")
        self.assertTrue(wire.aborted)
        self.failureResultOf(call.head, errors.UpstreamFailed)
        call.release()
        self.assertIsNone(self.pool.take("a"))

    def test_bytes_while_idle(self) -> None:
        """So do bytes that come while nobody asked, before anybody can be given the connection."""
        wire = self.done()
        wire.receive(b"HTTP/1.1 200 OK\r\n\r\n")
        self.assertTrue(wire.aborted)
        self.assertIsNone(self.pool.take("a"))

    def test_not_again(self) -> None:
        """Neither an incomplete answer, nor an incomplete request, nor a closing upstream is used again."""
        self.assertTrue(
            self.done(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").aborted
        )
        self.assertTrue(self.done(b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").aborted)
        call, wire = self.get()
        wire.receive(OK[:-1])
        call.release()
        self.assertTrue(wire.aborted)
        call, wire = self.put()
        call.write(b"hell")
        wire.receive(OK)
        self.assertEqual(self.head(call).status, 200)
        call.release()
        self.assertTrue(wire.aborted)
        call, wire = self.get()
        wire.receive(OK)
        call.abort()
        call.release()
        self.assertIsNone(self.pool.take("a"))

    def test_late_abort(self) -> None:
        """Who has given a connection back cannot cut it any more."""
        call, wire = self.get()
        wire.receive(OK)
        self.read(call)
        call.release()
        other = self.pool.take("a")
        assert other is not None
        other.call(b"GET", b"/2", [(b"host", b"a.invalid")], 0)
        call.abort()
        call.stopProducing()
        call.release()
        self.assertFalse(wire.aborted)

    def test_early_answer(self) -> None:
        """An answer may come while the body is sent; after the last byte the connection serves again."""
        call, wire = self.put()
        call.write(b"he")
        wire.receive(OK)
        self.assertEqual(self.head(call).status, 200)
        self.assertFalse(call.sent)
        call.write(b"llo")
        self.read(call)
        call.release()
        self.assertFalse(wire.aborted)

    def test_stale(self) -> None:
        """A connection that dies on its second call before anything of an answer came is called stale."""
        for data, stale in (
            (b"", True),
            (b"H", False),
            (b"HTTP/1.1 100 Continue\r\n\r\n", False),
        ):
            wire = self.done()
            connection = self.pool.take("a")
            assert connection is not None
            call = connection.call(b"GET", b"/", [(b"host", b"a.invalid")], 0)
            wire.receive(data)
            wire.end()
            failure = self.failureResultOf(call.head, errors.UpstreamFailed)
            self.assertEqual(isinstance(failure.value, StaleConnection), stale)

    def test_first_call(self) -> None:
        """On its first call a connection is not stale: its upstream refuses to talk."""
        call, wire = self.get()
        wire.end()
        self.assertIsNone(self.failureResultOf(call.head, errors.UpstreamFailed).check(StaleConnection))


class PoolTests(ClientCase):
    """Idle connections."""

    def test_bound(self) -> None:
        """So many are kept for each upstream; the longest idle goes first, the last used comes first."""
        calls = [self.get() for _ in range(3)]
        for call, wire in calls:
            wire.receive(OK)
            self.read(call)
            call.release()
        self.assertEqual([wire.aborted for _, wire in calls], [True, False, False])
        self.assertIs(self.pool.take("a"), calls[2][1].protocol)
        self.assertIs(self.pool.take("a"), calls[1][1].protocol)
        self.assertIsNone(self.pool.take("a"))
        self.assertIsNone(self.pool.take("b"))

    def test_idle_time(self) -> None:
        """After the idle time a connection is cut, and nobody is given it meanwhile."""
        wire = self.done()
        self.clock.advance(29)
        self.assertFalse(wire.aborted)
        self.clock.advance(1)
        self.assertTrue(wire.aborted)
        self.assertIsNone(self.pool.take("a"))

    def test_gone(self) -> None:
        """A connection that the upstream closes leaves the pool, with its timer."""
        wire = self.done()
        wire.end()
        self.assertIsNone(self.pool.take("a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_taken(self) -> None:
        """A connection in use has no idle timer, and is read."""
        wire = self.done()
        self.assertIsNotNone(self.pool.take("a"))
        self.clock.advance(1000)
        self.assertFalse(wire.aborted)
        self.assertTrue(wire.reading)


class FlowTests(ClientCase):
    """Back-pressure."""

    def test_answer_paused(self) -> None:
        """Nothing of a body is read before it is wanted, nor while its reader has paused it."""
        call, wire = self.get()
        wire.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n")
        self.assertFalse(wire.reading)
        got: list[int] = []
        result = call.deliver(lambda piece: got.append(len(piece)))
        wire.receive(bytes(100000))
        call.pauseProducing()
        wire.receive(bytes(5000000))
        self.assertEqual((sum(got), len(wire.inbox)), (100000, 5000000))
        call.resumeProducing()
        wire.receive(b"")
        self.assertEqual((sum(got), len(wire.inbox)), (5100000, 0))
        call.abort()
        wire.end()
        self.failureResultOf(result, errors.UpstreamFailed)

    def test_paused_in_between(self) -> None:
        """What came in one piece with what made its reader pause waits in memory, and then comes in order."""
        call, wire = self.get()
        got: list[bytes] = []

        def take(piece: bytes) -> None:
            got.append(piece)
            call.pauseProducing()

        result = call.deliver(take)
        wire.receive(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"
        )
        for expected in ([b"a"], [b"a", b"b"], [b"a", b"b", b"c"]):
            self.assertEqual(got, expected)
            call.resumeProducing()
        self.successResultOf(result)
        self.assertTrue(call.complete)

    def test_upload_paused(self) -> None:
        """The producer of a request body is paused by the connection, and not stopped by its loss."""
        call, wire = self.put()
        producer = Producer()
        call.registerProducer(producer, True)
        wire.producer.pauseProducing()
        wire.producer.resumeProducing()
        wire.end()
        self.failureResultOf(call.head, errors.UpstreamFailed)
        self.assertEqual(producer.told, ["pause", "resume", "pause"])
        call.write(b"hello")
        call.registerProducer(producer, True)
        self.assertEqual(producer.told[3:], ["pause"])

    def test_cancel(self) -> None:
        """Cancelling the delivery cuts the connection and leaves nothing."""
        call, wire = self.get()
        wire.receive(OK[:-1])
        result = call.deliver(lambda piece: None)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertTrue(wire.aborted)
        wire.end()

    def test_given_up(self) -> None:
        """A call that was given up, before its answer or after its failure, is not reported to anybody."""
        call, wire = self.get()
        call.abort()
        wire.end()
        self.assertTrue(wire.aborted)
        call, wire = self.get()
        wire.end()
        call.abort()
        del call, wire
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_delivered_after_loss(self) -> None:
        """What came before the loss is still delivered, then the failure, also to a paused reader."""
        call, wire = self.get()
        got: list[bytes] = []
        result: Deferred[Any] = call.deliver(got.append)
        wire.receive(OK[:-3])
        call.pauseProducing()
        wire.protocol.dataReceived(b"l")
        wire.end()
        self.assertNoResult(result)
        call.resumeProducing()
        self.failureResultOf(result, errors.UpstreamFailed)
        self.assertEqual(b"".join(got), b"hel")
