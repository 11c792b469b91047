from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from gateway import errors
from gateway.core.web import Answer, Leaf, Refusal, Tree
from tests.core.test_channel import ChannelCase, Wire, request, statuses
from tests.support import Producer

with warnings.catch_warnings():
    # The module warns about itself.
    warnings.simplefilter("ignore")
    from twisted.web.static import Data, File


class Item(Leaf):
    """Answers in every way."""

    waiting: Deferred[None] | None = None
    cancelled = False

    async def on_get(self, request: Any) -> Answer:
        if self.waiting is not None:
            try:
                await self.waiting
            except CancelledError:
                self.cancelled = True
                raise
        return Answer({"id": 1})

    async def on_put(self, request: Any) -> Answer:
        return Answer(request.content.read(), 201, b"text/plain")

    async def on_post(self, request: Any) -> Answer:
        raise errors.Conflict("It is <busy>")

    async def on_patch(self, request: Any) -> Answer:
        raise ZeroDivisionError("the secret of line 7")

    async def on_delete(self, request: Any) -> Answer:
        return Answer(status=204)

    async def on_options(self, request: Any) -> Any:
        return None


class Plain(Resource):
    """An ordinary resource, with what ordinary resources do wrong."""

    isLeaf = True
    producer: Producer | None = None

    def render_GET(self, request: Any) -> Any:
        raise ZeroDivisionError("the secret of line 7")

    def render_PUT(self, request: Any) -> Any:
        return "no bytes"

    def render_POST(self, request: Any) -> Any:
        self.producer = Producer()
        request.registerProducer(self.producer, True)
        request.write(b"some")
        request.notifyFinish().addErrback(lambda _: None)
        self.request = request
        return NOT_DONE_YET


class PageTests(ChannelCase):
    """Ordinary resources below a site."""

    def setUp(self) -> None:
        super().setUp()
        root = Tree()
        self.item, self.plain = Item(), Plain()
        root.putChild(b"item", self.item)
        root.putChild(b"plain", self.plain)
        root.putChild(b"data", Data(b"hello", "text/html"))
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "big").write_bytes(bytes(range(256)) * 2048)
        (folder / "deeper").mkdir()
        files = File(str(folder))
        files.childNotFound = Refusal(errors.NotFound())  # type: ignore[assignment]  # any resource will do
        root.putChild(b"files", files)
        self.site.resource = root

    def get(self, wire: Wire) -> tuple[int, dict[bytes, bytes], bytes]:
        """Take one answer apart."""
        head, _, body = wire.taken().partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines[1:])
        return statuses(head)[0], fields, body

    def test_get(self) -> None:
        """A page carries its length and what keeps browsers careful, and the connection goes on."""
        wire = self.ask(request(b"GET /item"))
        status, fields, body = self.get(wire)
        self.assertEqual((status, json.loads(body)), (200, {"id": 1}))
        self.assertEqual(fields[b"content-length"], b"%d" % len(body))
        self.assertEqual(fields[b"cache-control"], b"no-store")
        self.assertEqual(fields[b"x-content-type-options"], b"nosniff")
        self.assertEqual(fields[b"x-frame-options"], b"DENY")
        self.assertIn(b"default-src 'self'", fields[b"content-security-policy"])
        self.assertEqual(fields[b"referrer-policy"], b"no-referrer")
        wire.receive(request(b"GET /data"))
        self.assertEqual(self.get(wire)[2], b"hello")
        self.assertEqual([status for status, _ in self.observed], [200, 200])

    def test_bodiless(self) -> None:
        """HEAD and 204 have no body and keep the connection."""
        wire = self.connect()
        for line, expected in (
            (b"HEAD /item", 200),
            (b"DELETE /item", 204),
            (b"HEAD /data", 200),
            (b"HEAD /", 404),
        ):
            wire.receive(request(line))
            status, _, body = self.get(wire)
            self.assertEqual((status, body), (expected, b""), line)
        self.assertFalse(wire.closed)

    def test_bodies(self) -> None:
        """A page sees the whole body, sent with a length or in chunks, in one piece or byte by byte."""
        for data in (
            request(b"PUT /item", b"content-length: 5\r\n", b"hello"),
            request(
                b"PUT /item", b"transfer-encoding: chunked\r\n", b"2\r\nhe\r\n3;x\r\nllo\r\n0\r\nX: y\r\n\r\n"
            ),
        ):
            wire = self.ask(data)
            self.assertEqual(self.get(wire)[::2], (201, b"hello"))
            for byte in data:
                wire.receive(bytes([byte]))
            self.assertEqual(self.get(wire)[::2], (201, b"hello"))

    def test_too_large(self) -> None:
        """A body above the limit is refused: by its length before reading, in chunks while reading."""
        wire = self.ask(request(b"PUT /item", b"content-length: 65537\r\n"))
        self.assertEqual(statuses(wire.sent), [413])
        wire = self.ask(request(b"PUT /item", b"transfer-encoding: chunked\r\n"))
        for _ in range(64):
            wire.receive(b"400\r\n" + bytes(1024) + b"\r\n")
        self.assertEqual(statuses(wire.sent), [])
        wire.receive(b"1\r\na\r\n")
        self.assertEqual(statuses(wire.sent), [413])

    def test_largest(self) -> None:
        """A body of exactly the limit passes."""
        wire = self.ask(request(b"PUT /item", b"content-length: 65536\r\n", bytes(65536)))
        self.assertEqual(self.get(wire)[0], 201)

    def test_refusals(self) -> None:
        """Failures are problem details; nothing of the request comes back."""
        for line, status, word in (
            (b"GET /<script>", 404, "not_found"),
            (b"GET /", 404, "not_found"),
            (b"GET /files/<script>", 404, "not_found"),
            (b"POST /item", 409, "conflict"),
            (b"POST /data", 405, "method_not_allowed"),
            (b"DELETE /plain", 405, "method_not_allowed"),
        ):
            found, fields, body = self.get(self.ask(request(line)))
            self.assertEqual(found, status, line)
            self.assertEqual(fields[b"content-type"], b"application/problem+json")
            self.assertEqual(fields[b"x-content-type-options"], b"nosniff")
            self.assertEqual(json.loads(body)["type"], f"urn:gateway:{word}")
            self.assertNotIn(b"script", body)

    def test_allow(self) -> None:
        """405 names the methods there are."""
        fields = self.get(self.ask(request(b"POST /data")))[1]
        self.assertEqual(fields[b"allow"], b"GET,HEAD")

        class Small(Leaf):
            async def on_get(self, request: Any) -> Answer:
                return Answer()

        self.site.resource.putChild(b"small", Small())
        self.assertEqual(self.get(self.ask(request(b"PUT /small")))[1][b"allow"], b"GET")

    def test_bugs(self) -> None:
        """A bug in a page, coroutine or not, is a 500 with a number; the traceback is in the log only."""
        for line, error in (
            (b"PATCH /item", ZeroDivisionError),
            (b"OPTIONS /item", AttributeError),
            (b"GET /plain", ZeroDivisionError),
            (b"PUT /plain", TypeError),
        ):
            status, fields, body = self.get(self.ask(request(line)))
            self.assertEqual((status, fields[b"content-type"]), (500, b"application/problem+json"), line)
            self.assertTrue(re.search(rb"incident [0-9a-f]{8}", body), line)
            self.assertNotIn(b"secret", body)
            self.assertEqual(len(self.flushLoggedErrors(error)), 1, line)

    def test_forms(self) -> None:
        """A malformed form is a body like any other."""
        kind = b"content-type: multipart/form-data; boundary=\xff\r\ncontent-length: 5\r\n"
        wire = self.ask(request(b"POST /item", kind, b"hello"))
        self.assertEqual(self.get(wire)[0], 409)

    def test_client_leaves(self) -> None:
        """When the client leaves, the coroutine of its page is cancelled."""
        self.item.waiting = Deferred()
        wire = self.ask(request(b"GET /item"))
        wire.end()
        self.assertTrue(self.item.cancelled)
        self.assertEqual(wire.sent, b"")

    def test_stray_cancellation(self) -> None:
        """A page whose coroutine is cancelled by something else is still answered."""
        waiting: Deferred[None] = Deferred()
        self.item.waiting = waiting
        wire = self.ask(request(b"GET /item"))
        waiting.cancel()
        self.assertEqual(self.get(wire)[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_file(self) -> None:
        """A file is pulled from the disk as fast as the client takes it, and arrives whole."""
        wire = self.ask(request(b"GET /files/big"))
        self.assertFalse(wire.streaming)
        self.assertLess(len(wire.sent), 4096)
        wire.producer.resumeProducing()
        self.assertLess(len(wire.sent), 256 * 1024)
        wire.pull()
        self.assertEqual(self.get(wire)[2], bytes(range(256)) * 2048)
        self.assertFalse(wire.closed)

    def test_file_left(self) -> None:
        """Who leaves in the middle of a file leaves nothing behind."""
        wire = self.ask(request(b"GET /files/big"))
        wire.producer.resumeProducing()
        wire.end()
        self.assertEqual([status for status, _ in self.observed], [200])

    def test_push(self) -> None:
        """A page that pushes is paused by its client, and chunked when it has no length."""
        wire = self.ask(request(b"POST /plain"))
        producer = self.plain.producer
        assert producer is not None
        wire.producer.pauseProducing()
        wire.producer.resumeProducing()
        self.assertEqual(producer.told, ["pause", "resume"])
        self.plain.request.unregisterProducer()
        self.plain.request.finish()
        status, fields, body = self.get(wire)
        self.assertEqual((status, fields[b"transfer-encoding"]), (200, b"chunked"))
        self.assertEqual(body, b"4\r\nsome\r\n0\r\n\r\n")
        self.assertFalse(wire.closed)

    def test_no_redirect(self) -> None:
        """No page sends anybody to a host that the request named."""
        for line in (
            b"GET //b.invalid/%2f..",
            b"GET /item//b.invalid?redirect=//b.invalid",
            b"GET /files/deeper",
        ):
            _, fields, _ = self.get(self.ask(request(line)))
            self.assertNotIn(b"invalid", fields.get(b"location", b""), line)

    def test_close(self) -> None:
        """The site cuts every connection when it is closed."""
        wire = self.connect()
        self.site.close()
        self.assertTrue(wire.aborted)
