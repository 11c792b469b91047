"""Hosts and clients that fail: what the other side learns, and what never happens."""

from __future__ import annotations

from typing import Any

from gateway import errors
from gateway.images.reading import STALL
from tests.images.host import HostConnection, Seen, deaf, dies, dies_after, raw, say, silent
from tests.images.stage import HOST, ID, OTHER, PORT, UPSTREAM, Client, Reply, StageTestCase

IMAGE = bytes(range(256)) * 40
LARGE = 4 * 1024 * 1024


class ReachTests(StageTestCase):
    """Hosts that cannot be reached, or say nothing."""

    def test_out_of_reach(self) -> None:
        """Refused, unresolved, untrusted: 502. In vain for too long: 504. Forbidden: 403, undialed."""
        self.add()
        for reason in ("refused", "dns", "tls", "unreachable"):
            self.dialer.fails.append(errors.UpstreamFailed(reason=reason))
            reply = self.image("GET")
            self.assertEqual((reply.status, self.refused[-1].reason), (502, reason))
            self.assertNotIn(HOST, reply.text)
        self.dialer.fails.append(errors.UpstreamTimeout(reason="connect"))
        self.assertEqual(self.image("PUT", b"x").status, 504)
        dialed = len(self.dialer.dialed)
        for url in ("https://169.254.169.254/latest", "http://[::1]:80/x", "http://[::ffff:127.0.0.1]:1/x"):
            self.add(OTHER, url=url)
            self.assertEqual(self.ask("GET", f"/images/{OTHER}").status, 403, url)
        self.assertEqual(len(self.dialer.dialed), dialed)

    def test_silent(self) -> None:
        """A host that does not answer is a 504 after a while; what may take hours is waited for."""
        self.add(timeout=1_000_000)
        for method, body in (("GET", None), ("PUT", b"abc"), ("OPTIONS", None), ("HEAD", None)):
            self.host.plans.append(silent)
            client = self.start(method, f"/images/{ID}", body)
            self.pass_time(UPSTREAM - 1)
            self.assertIsNone(client.head)
            self.pass_time(1)
            reply = client.take(method)
            self.assertEqual(reply and reply.status, 504, method)
            self.assertTrue(self.host.connections[-1].gone)
        for method, more, body in (
            ("PATCH", "", b'{"op": "zero", "size": 1}'),
            ("PATCH", "", b'{"op": "flush"}'),
            ("GET", "/extents", None),
            ("GET", "/checksum", None),
        ):
            later: list[HostConnection] = []
            self.host.plans.append(lambda connection, request: later.append(connection))  # noqa: B023 (done before the next round)
            client = self.start(method, f"/images/{ID}{more}", body)
            self.pass_time(10 * UPSTREAM)
            later[0].answer(200)
            self.network.pump()
            reply = client.take(method)
            self.assertEqual(reply and reply.status, 200, method + more)

    def test_deaf(self) -> None:
        """A host that stops reading an upload is a 504, and not waited for without end."""
        self.add(size=LARGE)
        self.host.plans.append(deaf)
        client = self.start("PUT", f"/images/{ID}", bytes(LARGE))
        self.assertGreater(len(client.transport.out), LARGE // 2)
        self.pass_time(3 * UPSTREAM, UPSTREAM / 4)
        self.assertEqual((client.head or (0,))[0], 504)
        self.assertTrue(self.host.connections[0].gone)

    def test_slow_reader(self) -> None:
        """A host that reads slowly is waited for, as long as it reads at all."""
        self.add(size=LARGE)
        self.host.plans.append(deaf)
        self.host.images[ID] = bytearray(LARGE)
        client = self.start("PUT", f"/images/{ID}", bytes(LARGE))
        end = self.host.connections[0].transport
        while not self.host.seen[0].whole:
            self.pass_time(UPSTREAM / 4)
            end.resumeProducing()
            end.other.move()
            end.pauseProducing()
            self.network.pump()
        self.host.connections[0].answer(200)
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 200)

    def test_answers_passed_on(self) -> None:
        """Refusals of the host reach the client with their text; odd answers are a 502."""
        self.add()
        for status in (400, 401, 403, 404, 409, 416, 500, 503):
            self.host.plans.append(say(status, b"because\n"))
            reply = self.image("GET")
            self.assertEqual((reply.status, reply.text), (status, "because\n"))
        for plan in (
            say(302, b"", location="http://evil.invalid/"),
            say(204),
            raw(b"HTTP/1.1 101 Switching\r\n\r\n"),
            raw(b"hello\r\n\r\n"),
            raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
            raw(b"HTTP/1.1 200 OK\r\n\r\nabc"),
            raw(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx: a\x00b\r\n\r\nabc"),
        ):
            self.host.plans.append(plan)
            reply = self.image("GET")
            self.assertEqual(reply.status, 502)
            self.assertNotIn("location", reply.fields)
            self.assertTrue(self.host.connections[-1].gone)

    def test_html(self) -> None:
        """H10: a page of the host's library does not become ours."""
        self.add()
        self.host.plans.append(say(414, b"<HTML><script>alert(1)</script>"))
        reply = self.image("GET")
        self.assertEqual((reply.status, reply.text), (414, "The image host answered 414\n"))
        self.assertEqual(reply.fields["content-type"], "text/plain; charset=UTF-8")
        self.assertEqual(reply.fields["x-content-type-options"], "nosniff")
        reply = self.ask("DELETE", "/sessions/%3Cscript%3E")
        self.assertEqual((reply.status, reply.fields["x-content-type-options"]), (404, "nosniff"))


class DownloadTests(StageTestCase):
    """R8: a download is whole, or it is visibly broken."""

    def setUp(self) -> None:
        super().setUp()
        self.add()

    def test_taken_up(self) -> None:
        """A host that dies in between is asked for the rest, and the client notices nothing."""
        self.host.plans += [dies_after(1000), dies_after(500), None]
        reply = self.image("GET")
        self.assertEqual((reply.status, reply.body), (200, IMAGE))
        self.assertEqual(
            [seen.fields.get("range") for seen in self.host.seen],
            [None, "bytes=1000-10239", "bytes=1500-10239"],
        )

    def test_taken_up_in_range(self) -> None:
        """The rest of a range is asked for where it belongs, and no further."""
        self.host.plans += [dies_after(10), None]
        reply = self.image("GET", range="bytes=100-199")
        self.assertEqual((reply.status, reply.body), (206, IMAGE[100:200]))
        self.assertEqual(self.host.seen[1].fields["range"], "bytes=110-199")

    def test_comes_back(self) -> None:
        """A host that is away for some seconds is waited for."""
        self.host.plans.append(dies_after(1000))
        self.dialer.fails += []
        servers = dict(self.network.servers)
        client = self.connect()
        client.send(self.request("GET", f"/images/{ID}"))
        self.host.plans[0] = self.vanish
        self.network.pump()
        self.pass_time(10, 0.5)
        self.network.servers.update(servers)
        self.pass_time(3, 0.5)
        reply = client.take()
        self.assertEqual(reply and reply.body, IMAGE)

    def vanish(self, connection: HostConnection, request: Seen) -> None:
        """Die, and let nobody come back."""
        self.network.servers.clear()
        dies_after(1000)(connection, request)

    def test_for_good(self) -> None:
        """A host that stays away ends the download with a cut, never with a clean end."""
        self.host.plans.append(self.vanish)
        client = self.start("GET", f"/images/{ID}")
        self.pass_time(60, 0.5)
        assert client.head is not None and client.lost is not None
        self.assertEqual(client.head[1]["content-length"], "10240")
        self.assertIsNone(client.take(), "the body must not look complete")
        self.assertNotIn("ConnectionDone", repr(client.lost))
        self.assertEqual(self.sessions.list(), ())

    def test_gives_nothing(self) -> None:
        """A host that takes the rest up and dies again at once is not asked for ever."""
        self.host.plans += [dies_after(1000)] + [dies_after(0)] * 50
        client = self.start("GET", f"/images/{ID}")
        self.pass_time(60, 0.5)
        self.assertIsNotNone(client.lost)
        self.assertLess(len(self.host.seen), 5)

    def test_changed_meanwhile(self) -> None:
        """The rest of another version of the image is no rest."""
        self.host.plans += [
            self.first_version,
            say(206, IMAGE[100:], content_range="bytes 100-10239/10240", etag='"2"'),
        ]
        self.network.servers[HOST, PORT] = self.host
        client = self.start("GET", f"/images/{ID}")
        self.pass_time(60, 0.5)
        self.assertIsNotNone(client.lost)
        self.assertIsNone(client.take())

    def first_version(self, connection: HostConnection, request: Seen) -> None:
        connection.answer(200, IMAGE[:100], 10240, etag='"1"')
        end = connection.transport
        while end.out:
            end.move()
        connection.die()

    def test_stalled(self) -> None:
        """A host that falls silent in the middle is left, and another connection gives the rest."""
        self.host.plans += [say(200, IMAGE[:100], 10240), None]
        client = self.start("GET", f"/images/{ID}")
        self.assertIsNone(client.take())
        self.pass_time(2 * STALL, STALL / 4)
        reply = client.take()
        self.assertEqual(reply and reply.body, IMAGE)
        self.assertEqual(self.host.seen[1].fields["range"], "bytes=100-10239")

    def test_wrong_range(self) -> None:
        """A 206 for other bytes, or of another length, is a 502."""
        for fields, body in (
            ({"content_range": "bytes 1-10/10240"}, IMAGE[:10]),
            ({"content_range": "bytes 0-8/10240"}, IMAGE[:9]),
            ({"content_range": "bytes 0-9/10240"}, IMAGE[:11]),
            ({"content_range": "bytes 0-*/10240"}, IMAGE[:10]),
            ({"content_range": "nonsense"}, IMAGE[:10]),
            ({}, IMAGE[:10]),
        ):
            answer: Any = fields
            self.host.plans.append(say(206, body, **answer))
            self.assertEqual(self.image("GET", range="bytes=0-9").status, 502, fields)
            self.assertTrue(self.host.connections[-1].gone)
        self.host.plans.append(say(206, IMAGE[:10], content_range="bytes 0-9/10240"))
        self.assertEqual(self.image("GET").status, 502, "nobody asked for a range")

    def test_never_more(self) -> None:
        """Bytes after the end of an answer go nowhere, and their connection is not used again."""
        self.host.plans.append(say(200, IMAGE + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", len(IMAGE)))
        self.assertEqual(self.image("GET").status, 502)
        self.assertTrue(self.host.connections[0].gone)

    def test_client_leaves(self) -> None:
        """A client that leaves ends the host's connection, too, and nothing else asks for the rest."""
        self.host.images[ID] = bytearray(LARGE)
        self.add(size=LARGE)
        client = self.connect()
        client.transport.pauseProducing()
        client.send(self.request("GET", f"/images/{ID}"))
        self.network.pump()
        client.transport.abortConnection()
        self.network.pump()
        self.assertTrue(self.host.connections[0].gone)
        self.assertEqual((self.sessions.list(), len(self.host.seen)), ((), 1))

    def test_back_pressure(self) -> None:
        """R7: a client that does not read holds up its host, not our memory."""
        self.host.images[ID] = bytearray(LARGE)
        self.add(size=LARGE)
        client = self.connect()
        client.transport.pauseProducing()
        client.send(self.request("GET", f"/images/{ID}"))
        self.network.pump()
        self.assertGreater(len(self.host.connections[0].transport.out), LARGE - 4 * 64 * 1024)
        client.transport.resumeProducing()
        self.network.pump()
        reply = client.take()
        self.assertEqual(reply and len(reply.body), LARGE)


class UploadTests(StageTestCase):
    """R4: an upload is whole, or it has failed."""

    def setUp(self) -> None:
        super().setUp()
        self.add(size=LARGE)

    def test_refused_early(self) -> None:
        """What the host says before it has read the body reaches the client; the rest goes nowhere."""
        self.host.plans.append(say(403, b"no\n"))
        client = self.start("PUT", f"/images/{ID}", bytes(1000), content_length=LARGE)
        reply = client.take()
        assert reply is not None
        self.assertEqual((reply.status, reply.text, reply.fields["connection"]), (403, "no\n", "close"))
        self.assertTrue(self.host.connections[0].gone)
        client.send(bytes(1000))
        self.network.pump()
        self.assertLess(len(self.host.wire[0]), 1500)

    def test_cut_short(self) -> None:
        """A client that leaves in the middle: the host's connection is cut, and it is no success."""
        client = self.start("PUT", f"/images/{ID}", b"abc", content_length=10)
        self.assertFalse(self.host.seen[0].whole)
        client.transport.abortConnection()
        self.network.pump()
        self.assertTrue(self.host.connections[0].gone)
        self.assertEqual(self.host.images[ID], IMAGE)
        ends = [fields for event, fields in self.trail if event == "session.close"]
        self.assertNotIn("done", [fields["reason"] for fields in ends])

    def test_half_closed(self) -> None:
        """The same when the client ends its side in good order."""
        client = self.start("PUT", f"/images/{ID}", b"abc", content_length=10)
        client.transport.loseConnection()
        self.network.pump()
        self.assertTrue(self.host.connections[0].gone)
        self.assertNotIn(b"200", bytes(client.got)[:20])

    def test_extended(self) -> None:
        """Bytes after the body are the client's next request, never the host's."""
        client = self.start("PUT", f"/images/{ID}", b"abcDELETE / HTTP/1.1\r\n\r\n", content_length=3)
        self.assertEqual((client.take() or Reply(0, {}, b"")).status, 200)
        self.assertEqual((client.take() or Reply(0, {}, b"")).status, 400)
        self.assertEqual((self.host.said, self.host.seen[0].body), ([f"PUT /images/{ID}"], b"abc"))

    def test_broken_chunks(self) -> None:
        """Chunks that break off, or are none, are no success, and are not flushed."""
        for body in (b"3\r\nabc\r\nxyz\r\n", b"3\r\nabcde\r\n", b"-1\r\n"):
            client = self.start("PUT", f"/images/{ID}", body, transfer_encoding="chunked")
            self.assertEqual((client.head or (0,))[0], 400, body)
        client = self.start("PUT", f"/images/{ID}", b"3\r\nabc\r\n", transfer_encoding="chunked")
        client.transport.abortConnection()
        self.network.pump()
        self.assertEqual(self.host.said, [])

    def test_host_dies(self) -> None:
        """A host that dies in the middle of an upload is a 502."""
        client = self.start("PUT", f"/images/{ID}", b"abc", content_length=10)
        self.host.connections[0].die()
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 502)

    def test_host_closes(self) -> None:
        """The same when it ends in good order, or in the middle of its answer."""
        client = self.start("PUT", f"/images/{ID}", b"abc", content_length=10)
        self.host.connections[0].transport.loseConnection()
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 502)
        client = self.start("PUT", f"/images/{ID}", b"abc", content_length=10)
        self.host.connections[1].transport.write(b"HTTP/1.1 200")
        self.network.pump()
        self.host.connections[1].die()
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 502)

    def test_answered_too_early(self) -> None:
        """A 200 before the body is not believed before the body went by."""
        self.host.plans.append(say(200))
        client = self.start("PUT", f"/images/{ID}", b"abc", content_length=6)
        self.assertIsNone(client.head)
        client.send(b"def")
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 200)
        self.assertEqual(self.host.seen[0].body, b"abcdef")


class PooledTests(StageTestCase):
    """Connections to hosts are kept, and may be dead when they are needed."""

    def setUp(self) -> None:
        super().setUp()
        self.add()
        self.image("GET", range="bytes=0-0")

    def test_reused(self) -> None:
        """One connection serves one request after another."""
        for _ in range(3):
            self.image("GET", range="bytes=0-0")
            self.image("PUT", b"a")
            self.image("PATCH", b'{"op": "flush"}')
            self.image("OPTIONS")
        self.assertEqual(len(self.dialer.dialed), 1)

    def test_stale(self) -> None:
        """What can be repeated is repeated on a new connection: the client notices nothing."""
        for method, body in (
            ("GET", None),
            ("OPTIONS", None),
            ("PATCH", b'{"op": "flush"}'),
            ("PUT", b"abc"),
        ):
            self.image("GET", range="bytes=0-0")
            self.host.plans.append(dies)
            dialed = len(self.dialer.dialed)
            self.assertIn(self.image(method, body).status, (200, 206, 416), method)
            self.assertEqual(len(self.dialer.dialed), dialed + 1)
        self.assertEqual(self.host.images[ID][:3], b"abc")

    def test_stale_in_the_middle(self) -> None:
        """An upload of which everything is in hand goes on on a new connection, to the last byte."""
        client = self.start("PUT", f"/images/{ID}", b"abc", content_length=9)
        self.host.connections[0].die()
        self.network.pump()
        client.send(b"defghi")
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 200)
        self.assertEqual(self.host.seen[-1].body, b"abcdefghi")

    def test_stale_too_late(self) -> None:
        """When more was sent than is kept it is a 502, never a second half alone."""
        self.add(size=LARGE)
        client = self.start("PUT", f"/images/{ID}", bytes(300 * 1024), content_length=LARGE)
        self.host.connections[0].die()
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 502)
        self.assertEqual(len(self.dialer.dialed), 1)

    def test_once(self) -> None:
        """It is repeated once, and not when a part of the answer came."""
        self.host.plans += [dies, dies]
        self.assertEqual(self.image("GET").status, 502)
        self.image("GET", range="bytes=0-0")

        def half(connection: HostConnection, request: Seen) -> None:
            connection.transport.write(b"HTTP/1.1 2")
            connection.transport.move()
            connection.die()

        self.host.plans.append(half)
        seen = len(self.host.seen)
        self.assertEqual(self.image("PATCH", b'{"op": "flush"}').status, 502)
        self.assertEqual(len(self.host.seen), seen + 1)

    def test_not_after_an_early_end(self) -> None:
        """H1: a connection with anything left in it is not used again."""

        def early(client: Client) -> None:
            client.transport.abortConnection()
            self.network.pump()

        self.host.plans.append(silent)
        early(self.start("GET", f"/images/{ID}"))
        self.assertTrue(self.host.connections[-1].gone)
        early(self.start("PUT", f"/images/{ID}", b"abc", content_length=10))
        self.assertTrue(self.host.connections[-1].gone)
        self.host.plans.append(say(409, b"x"))
        self.start("PUT", f"/images/{ID}", b"abc", content_length=10)
        self.assertTrue(self.host.connections[-1].gone)
        self.image("HEAD")
        self.assertTrue(self.host.connections[-1].gone)
        self.host.plans.append(say(200, b"x", connection="close"))
        self.add(size=1)
        self.image("GET")
        self.assertEqual(self.image("GET", range="bytes=0-0").status, 206)
        self.assertEqual([len(self.host.connections), len(self.dialer.dialed)], [6, 6])

    def test_unasked(self) -> None:
        """Bytes that nobody asked for end an idle connection; they are nobody's answer."""
        self.host.connections[0].transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        self.network.pump()
        self.assertTrue(self.host.connections[0].gone)
        self.assertEqual(self.image("GET", range="bytes=0-3").body, IMAGE[:4])
