from __future__ import annotations

import gc
from collections.abc import Callable
from weakref import ref

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.request_body import BodyCutShort, RequestBody
from gateway.wire.http_head import parse_request


class RequestBodyTests(SynchronousTestCase):
    """A body on its way in."""

    def setUp(self) -> None:
        self.begun = 0
        self.flows: list[bool] = []
        self.got: list[bytes] = []

    def begin(self) -> None:
        self.begun += 1

    def body(self, framing: bytes = b"content-length: 5") -> RequestBody:
        head = parse_request(b"PUT / HTTP/1.1\r\nhost: a.invalid\r\n" + framing + b"\r\n\r\n")
        body: RequestBody = RequestBody(head, self.begin, lambda: self.flows.append(body.flowing))
        return body

    def test_delivers(self) -> None:
        """Bytes go to the reader as they come, and what follows them is left."""
        for framing, pieces in (
            (b"content-length: 5", [b"he", b"llorest"]),
            (b"transfer-encoding: chunked", [b"2\r\nhe\r\n3\r", b"\nllo\r\n0\r\n\r\nrest"]),
        ):
            body = self.body(framing)
            result = body.deliver(self.got.append)
            body.receive(pieces[0])
            self.assertNoResult(result)
            body.receive(pieces[1])
            self.successResultOf(result)
            self.assertEqual((b"".join(self.got), body.rest), (b"hello", b"rest"))
            self.assertEqual((body.received, body.arrived, body.flowing), (5, True, False))
            self.got.clear()
        self.assertEqual(self.begun, 2)

    def test_came_with_head(self) -> None:
        """A body that is already there needs no beginning."""
        body = self.body()
        body.receive(b"hello")
        self.successResultOf(body.deliver(self.got.append))
        self.assertEqual((self.got, self.begun), ([b"hello"], 0))

    def test_lets_go(self) -> None:
        """However a delivery ends, the reader is free at once, not when garbage is collected."""

        class Sink:
            def write(self, piece: bytes) -> None:
                """Take it."""

        ends: list[Callable[[RequestBody], None]] = [
            lambda body: body.receive(b"hello"),
            lambda body: body.fail(BodyCutShort()),
            lambda body: body.stopProducing(),
        ]
        self.addCleanup(gc.enable)
        gc.disable()
        for end in ends:
            body, sink = self.body(), Sink()
            gone = ref(sink)
            body.deliver(sink.write).addErrback(lambda _: None)
            del sink
            self.assertIsNotNone(gone())
            end(body)
            self.assertIsNone(gone())
            self.assertTrue(body.started)

    def test_none(self) -> None:
        """A request without a body has an empty one."""
        body = self.body(b"x: y")
        self.assertEqual((body.length, body.arrived), (0, True))
        self.assertEqual(self.successResultOf(body.read(0)), b"")
        self.successResultOf(self.body(b"x: y").deliver(self.got.append))
        self.assertEqual(self.got, [])

    def test_pauses(self) -> None:
        """A paused reader gets nothing; afterwards it gets everything in order."""
        body = self.body()
        self.assertFalse(body.flowing)
        result = body.deliver(self.got.append)
        body.pauseProducing()
        body.receive(b"hel")
        body.receive(b"lo")
        self.assertEqual(self.got, [])
        self.assertNoResult(result)
        body.resumeProducing()
        self.successResultOf(result)
        self.assertEqual(self.got, [b"hel", b"lo"])
        self.assertEqual(self.flows[:2], [True, False])

    def test_pauses_itself(self) -> None:
        """A reader may pause from within, between the chunks of one piece."""
        body = self.body(b"transfer-encoding: chunked")

        def take(piece: bytes) -> None:
            self.got.append(piece)
            body.pauseProducing()

        result = body.deliver(take)
        body.receive(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
        self.assertEqual(self.got, [b"a"])
        self.assertNoResult(result)
        body.resumeProducing()
        self.assertEqual(self.got, [b"a", b"b"])
        self.successResultOf(result)

    def test_fails(self) -> None:
        """An error ends the delivery, now or when it is asked for, and nothing more is kept."""
        body = self.body()
        result = body.deliver(self.got.append)
        body.fail(BodyCutShort())
        body.receive(b"he")
        self.failureResultOf(result, BodyCutShort)
        later = self.body()
        later.receive(b"he")
        later.fail(BodyCutShort())
        self.failureResultOf(later.deliver(self.got.append), BodyCutShort)
        self.assertEqual(self.got, [])

    def test_failed_needs_no_beginning(self) -> None:
        """A body that has failed already is not asked for: there is no ``100 Continue`` to send."""
        body = self.body()
        body.fail(BodyCutShort())
        self.failureResultOf(body.deliver(self.got.append), BodyCutShort)
        self.assertEqual(self.begun, 0)

    def test_cancelled(self) -> None:
        """A cancelled delivery takes nothing more; the bytes are counted all the same."""
        body = self.body()
        result = body.deliver(self.got.append)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        body.receive(b"hello")
        self.assertEqual((self.got, body.received, body.arrived), ([], 5, True))

    def test_read(self) -> None:
        """A small body may be read as a whole."""
        body = self.body()
        result = body.read(5)
        body.receive(b"he")
        body.receive(b"llo")
        self.assertEqual(self.successResultOf(result), b"hello")

    def test_limit(self) -> None:
        """A body above the limit is refused: by its length before it begins, in chunks when it passes."""
        self.assertRaises(errors.TooLarge, self.body().read, 4)
        self.assertEqual(self.begun, 0)
        body = self.body(b"transfer-encoding: chunked")
        result = body.read(4)
        body.receive(b"4\r\nhell\r\n")
        self.assertNoResult(result)
        body.receive(b"1\r\no\r\n0\r\n\r\n")
        self.failureResultOf(result, errors.TooLarge)
        whole = self.body(b"transfer-encoding: chunked")
        whole.receive(b"5\r\nhello\r\n0\r\n\r\n")
        self.failureResultOf(whole.read(4), errors.TooLarge)

    def test_malformed(self) -> None:
        """Malformed chunks are told to whoever feeds them."""
        self.assertRaises(errors.BadRequest, self.body(b"transfer-encoding: chunked").receive, b"x\r\n")
