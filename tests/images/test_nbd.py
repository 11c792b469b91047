"""Images behind NBD servers, through the whole relay: a server in memory, and a clock in the test's hand."""

from __future__ import annotations

import json
import os
from hashlib import blake2b, sha256
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.images.nbd_pool import Place, place_of
from gateway.images.nbd_transfer import READ, WRITE
from tests.images.stage import HOST, ID, OTHER, Client, Reply, StageTestCase
from tests.wire import nbd_server as nbd
from tests.wire.nbd_server import Image, Server

MIB = 1024 * 1024
SOCKET = "/run/secret/nbd.sock"
DATA = os.urandom(2 * MIB) + bytes(MIB) + os.urandom(MIB + 5000)


class _Wire(Protocol):
    """One connection of the server."""

    transport: Any

    def __init__(self, host: NbdHost) -> None:
        self.host = host
        self.server = Server(host.image, host.random)
        self.kept = b""
        self.lost = False

    def connectionMade(self) -> None:
        if self.host.greets:
            self.transport.write(self.server.greeting())

    def dataReceived(self, data: bytes) -> None:
        self.kept += data
        if not self.host.hold:
            self.go()

    def go(self) -> None:
        data, self.kept = self.kept, b""
        answer = self.server.receive(data)
        if answer:
            self.transport.write(answer)
        if self.server.closed:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class NbdHost:
    """An NBD server.

    :ivar hold: take requests and leave them.
    :ivar greets: say hello.
    """

    def __init__(self, image: Image, random: Random | None = None) -> None:
        self.image = image
        self.random = random
        self.hold = False
        self.greets = True
        self.wires: list[_Wire] = []

    def buildProtocol(self, _: IAddress) -> _Wire:
        self.wires.append(_Wire(self))
        return self.wires[-1]

    @property
    def live(self) -> list[_Wire]:
        return [it for it in self.wires if not it.lost]


class _Case(StageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.nbd = self.serve(Image(bytearray(DATA)))
        self.addCleanup(self.leave)
        self.install()

    def leave(self) -> None:
        self.service.targets.nbd.close()
        self.network.pump()

    def serve(self, image: Image, random: Random | None = None) -> NbdHost:
        host = NbdHost(image, random)
        self.network.servers[SOCKET] = host
        return host

    def install(self, **members: Any) -> None:
        """Add a ticket for the export."""
        self.add(**{"url": f"nbd:unix:{SOCKET}", "size": len(DATA), **members})

    def log(self, command: int) -> list[tuple[int, int, int]]:
        """Offset, length and flags of all requests of a kind."""
        return [tuple(it[1:]) for it in self.nbd.image.log if it[0] == command]  # type: ignore[misc]  # of four numbers each

    def patch_image(self, **members: Any) -> Reply:
        return self.image("PATCH", json.dumps(members).encode())


class PlaceTests(SynchronousTestCase):
    """Where a url leads."""

    def test_forms(self) -> None:
        """All forms of a ticket's url are understood."""
        for url, place in {
            "nbd:unix:/run/nbd.sock": Place("/run/nbd.sock", "", 0, ""),
            "nbd:unix:/run/nbd.sock:exportname=a b": Place("/run/nbd.sock", "", 0, "a b"),
            "nbd:host.invalid:10809": Place(None, "host.invalid", 10809, ""),
            "nbd:host.invalid:10809:exportname=sda:1": Place(None, "host.invalid", 10809, "sda:1"),
            "nbd://host.invalid/a/b%20c": Place(None, "host.invalid", 10809, "a/b c"),
            "nbd://host.invalid:7": Place(None, "host.invalid", 7, ""),
            "nbd://[2001:db8::1]:10810/x": Place(None, "2001:db8::1", 10810, "x"),
        }.items():
            self.assertEqual(place_of(url), place, url)
        self.assertTrue(place_of("nbd:unix:/x", dirty=True).dirty)

    def test_names(self) -> None:
        """The list of sessions names a host, and no path."""
        self.assertEqual(place_of("nbd:unix:/run/x").name, "nbd")
        self.assertEqual(place_of("nbd://[2001:db8::1]:10810/x").name, "[2001:db8::1]:10810")


class OperationTests(_Case):
    """What the images API can do."""

    def test_read(self) -> None:
        """Whole and in parts, in simple replies and in chunks of any order."""
        for image in (
            Image(bytearray(DATA)),
            Image(bytearray(DATA), structured=False),
            Image(bytearray(DATA), chunk=65536),
        ):
            for random in (None, Random(1)):
                self.leave()
                self.serve(image, random if image.chunk == 65536 else None)
                self.assertTrue(self.image("GET").body == DATA)
                reply = self.image("GET", range="bytes=5-1999999")
                self.assertTrue((reply.status, reply.body) == (206, DATA[5:2_000_000]))
                self.assertEqual(reply.fields["content-range"], f"bytes 5-1999999/{len(DATA)}")
                self.assertEqual(self.image("GET", range="bytes=-3").body, DATA[-3:])
                self.assertEqual(self.image("GET", range=f"bytes={len(DATA)}-").status, 416)
                self.assertEqual(self.image("HEAD").fields["content-length"], str(len(DATA)))

    def test_bounds(self) -> None:
        """A ticket smaller than its export shows that much; one that is larger, the export."""
        self.install(size=100)
        self.assertEqual(self.image("GET").body, DATA[:100])
        self.assertEqual(self.image("PUT", b"x", content_range="bytes 100-*/*").status, 416)
        self.install(size=2 * len(DATA))
        self.assertTrue(self.image("GET").body == DATA)
        self.assertEqual(self.image("GET", range=f"bytes=0-{len(DATA)}").status, 416)
        for method, body, more in (
            ("PUT", b"x", {"content_range": f"bytes {len(DATA)}-*/*"}),
            ("PATCH", json.dumps({"op": "zero", "size": len(DATA) + 1}).encode(), {}),
        ):
            self.assertEqual(self.image(method, body, **more).status, 416)
        self.assertEqual(self.nbd.image.data, DATA)

    def test_empty(self) -> None:
        """An export of no bytes is read, written and described."""
        self.serve(Image(bytearray()))
        self.assertEqual(self.image("GET").body, b"")
        self.assertEqual(self.image("PUT", b"").status, 200)
        empty = {"start": 0, "length": 0, "zero": False, "hole": False}
        self.assertEqual(self.image("GET", more="/extents").json(), [empty])

    def test_write(self) -> None:
        """Bytes go where they belong, in pieces of any size; chunks, too; nothing else changes."""
        body = os.urandom(2 * MIB + 5)
        self.assertEqual(self.image("PUT", body, content_range="bytes 7-*/*").status, 200)
        self.assertTrue(self.nbd.image.data == DATA[:7] + body + DATA[7 + len(body) :])
        self.assertEqual(self.log(nbd.WRITE), [(7, WRITE, 0), (7 + WRITE, WRITE, 0), (7 + 2 * WRITE, 5, 0)])
        self.assertEqual(len(self.log(nbd.FLUSHED)), 1)
        chunks = b"5\r\nhello\r\n0\r\n\r\n"
        self.image("PUT", chunks, transfer_encoding="chunked", content_range="bytes 1-*/*")
        self.assertEqual(self.nbd.image.data[:7], DATA[:1] + b"hello" + DATA[6:7])
        self.assertEqual(self.image("PUT", b"", more="?flush=n").status, 200)

    def test_zero(self) -> None:
        """Zeroing makes holes when the ticket is sparse, and allocates otherwise; it goes in steps."""
        for sparse, flags in ((True, 0), (False, nbd.NO_HOLE)):
            self.nbd.image.log.clear()
            self.install(sparse=sparse)
            self.assertEqual(self.patch_image(op="zero", offset=10, size=MIB, flush=True).status, 200)
            self.assertTrue(self.nbd.image.data == DATA[:10] + bytes(MIB) + DATA[10 + MIB :])
            self.assertEqual(self.log(nbd.ZERO), [(10, MIB, flags)])
            self.assertEqual(len(self.log(nbd.FLUSHED)), 1)
        self.leave()
        self.nbd = self.serve(Image(bytearray(300 * MIB)))
        self.install(size=300 * MIB)
        self.assertEqual(self.patch_image(op="zero", size=300 * MIB).status, 200)
        self.assertEqual([it[1] for it in self.log(nbd.ZERO)], [128 * MIB, 128 * MIB, 44 * MIB])

    def test_zero_by_writing(self) -> None:
        """A server that cannot zero is sent zeroes."""
        self.nbd.image.flags = nbd.MULTI
        self.assertEqual(self.patch_image(op="zero", offset=1, size=2 * MIB, flush=True).status, 200)
        self.assertTrue(self.nbd.image.data == DATA[:1] + bytes(2 * MIB) + DATA[1 + 2 * MIB :])
        self.assertEqual((self.log(nbd.ZERO), self.log(nbd.FLUSHED)), ([], []))

    def test_flush(self) -> None:
        """A flush reaches the server; so does the end of an upload, unless it says no."""
        for request, flushes in (
            (lambda: self.image("PATCH", b'{"op": "flush"}'), 1),
            (lambda: self.image("PUT", b"a"), 1),
            (lambda: self.image("PUT", b"a", more="?flush=n"), 0),
            (lambda: self.patch_image(op="zero", size=1), 0),
        ):
            self.nbd.image.log.clear()
            self.assertEqual(request().status, 200)
            self.assertEqual(len(self.log(nbd.FLUSHED)), flushes)

    def test_options(self) -> None:
        """Many at once when the server says that its connections are one; else they take turns."""
        options = self.image("OPTIONS").json()
        self.assertEqual(options["features"], ["checksum", "extents", "flush", "zero"])
        self.assertEqual((options["max_readers"], options["max_writers"]), (8, 8))
        self.leave()
        self.nbd.image.flags &= ~nbd.MULTI
        options = self.image("OPTIONS").json()
        self.assertEqual((options["max_readers"], options["max_writers"]), (1, 1))

    def test_extents(self) -> None:
        """What is zero comes from the server; one that cannot tell has data only."""
        self.assertEqual(
            [(it["start"], it["length"], it["zero"], it["hole"]) for it in self.extents()],
            [(0, 2 * MIB, False, False), (2 * MIB, MIB, True, False), (3 * MIB, MIB + 5000, False, False)],
        )
        self.install(size=2 * MIB + 100)
        self.assertEqual([it["length"] for it in self.extents()], [2 * MIB, 100])
        self.leave()
        self.nbd.image.structured = False
        self.assertEqual(
            self.extents(), [{"start": 0, "length": 2 * MIB + 100, "zero": False, "hole": False}]
        )

    def extents(self, context: str = "zero") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.image("GET", more=f"/extents?context={context}").json()
        return found

    def test_dirty(self) -> None:
        """What a bitmap has marked, when the ticket allows it and there is one."""
        self.assertEqual(self.image("GET", more="/extents?context=dirty").status, 404)
        self.install(dirty=True)
        self.assertEqual(self.image("GET", more="/extents?context=dirty").status, 404)
        self.assertEqual(self.image("GET", more="/extents?context=x").status, 400)
        self.leave()
        self.nbd.image.dirty = {1, 520}
        self.assertEqual(
            [(it["start"], it["length"], it["dirty"], it["zero"]) for it in self.extents("dirty")][:5],
            [
                (0, 4096, False, False), (4096, 4096, True, False), (8192, 2 * MIB - 8192, False, False),
                (2 * MIB, 32768, False, True), (2 * MIB + 32768, 4096, True, True),
            ],
        )  # fmt: skip

    def test_checksum(self) -> None:
        """The checksums of the original's definition, also where blocks and pieces do not meet."""
        for name, block, one in (
            ("blake2b", 4 * MIB, lambda it: blake2b(it, digest_size=32)),
            ("sha256", MIB + 4096, sha256),
        ):
            blocks = [DATA[at : at + block] for at in range(0, len(DATA), block)]
            digest = one(b"".join(one(it).digest() for it in blocks)).hexdigest()
            reply = self.image("GET", more=f"/checksum?algorithm={name}&block_size={block}")
            self.assertEqual(reply.json(), {"algorithm": name, "block_size": block, "checksum": digest})
        self.assertEqual(self.image("GET", more="/checksum?algorithm=md6").status, 400)

    def test_read_only(self) -> None:
        """An export that must not be written is refused before a byte of the body is sent."""
        self.nbd.image.flags |= nbd.READ_ONLY
        for method, body in (
            ("PUT", b"x"),
            ("PATCH", b'{"op": "flush"}'),
            ("PATCH", b'{"op":"zero","size":1}'),
        ):
            reply = self.image(method, body)
            self.assertEqual((reply.status, "read-only" in reply.text), (403, True))
        self.assertEqual(self.image("GET", range="bytes=0-0").status, 206)


class TrustTests(_Case):
    """R1: where an nbd url may lead."""

    def test_signed(self) -> None:
        """Only the engine itself may name a server: a signed token never does."""
        for url in (f"nbd:unix:{SOCKET}", f"nbd://{HOST}:10809/a"):
            token = self.jwt(uuid=OTHER, url=url)
            self.assertEqual(self.ask("GET", f"/images/{OTHER}", authorization=token).status, 501)
            self.ask("DELETE", f"/tickets/{OTHER}")
        self.assertEqual(self.dialer.dialed, [])

    def test_policy(self) -> None:
        """Over TCP the policy decides, by address."""
        self.network.servers[HOST, 10809] = self.nbd
        self.install(url=f"nbd:{HOST}:10809")
        self.assertEqual(self.image("GET", range="bytes=0-0").status, 206)
        for url in ("nbd:127.0.0.1:10809", "nbd://169.254.169.254:80/x"):
            self.install(url=url)
            self.assertEqual(self.image("GET").status, 403)
        self.assertEqual(self.dialer.dialed, [(HOST, 10809)])

    def test_export(self) -> None:
        """The named export is the one that is served."""
        self.nbd.image.name = "sda"
        self.assertEqual(self.image("GET").status, 502)
        self.install(url=f"nbd:unix:{SOCKET}:exportname=sda")
        self.assertEqual(self.image("GET", range="bytes=0-1").body, DATA[:2])


class FailureTests(_Case):
    """A server that fails, is silent, goes away."""

    def test_refused(self) -> None:
        """Each error is a failure of the host, in words, and the socket stays unsaid."""
        for number, text in {5: "I/O error", 28: "no space left", 99: "unknown error"}.items():
            self.nbd.image.refuse = dict.fromkeys((nbd.WRITE, nbd.FLUSHED, nbd.ZERO, nbd.STATUS), number)
            for method, body, more in (
                ("PUT", bytes(3 * MIB), ""),
                ("PUT", b"x", ""),
                ("PATCH", b'{"op": "flush"}', ""),
                ("PATCH", b'{"op": "zero", "size": 5}', ""),
                ("GET", None, "/extents"),
            ):
                reply = self.image(method, body, more)
                self.assertEqual((reply.status, text in reply.text), (502, True), reply.text)
                self.assertNotIn("secret", reply.text)
                self.assertNotIn("sad", reply.text)

    def test_read_error(self) -> None:
        """R8: a download that cannot be read to its end is cut, not ended."""
        self.nbd.image.refuse = {nbd.READ: 5}
        client = self.start("GET", f"/images/{ID}")
        self.pass_time(60, 0.1)
        self.assertIsNone(client.take())
        self.assertIsNotNone(client.lost)

    def test_absent(self) -> None:
        """A server that is not there, or is something else, is a failure without a path."""
        del self.network.servers[SOCKET]
        reply = self.image("GET")
        self.assertEqual((reply.status, "secret" in reply.text), (502, False))
        self.network.servers[SOCKET] = self.host
        self.add(url=f"nbd:unix:{SOCKET}")

    def test_silent(self) -> None:
        """One that does not greet is given up after ten seconds."""
        self.nbd.greets = False
        client = self.start("GET", f"/images/{ID}")
        self.pass_time(9.9, 0.1)
        self.assertIsNone(client.head)
        self.pass_time(0.3, 0.1)
        self.assertEqual((client.head or (0,))[0], 504)
        self.assertEqual(self.nbd.live, [])

    def test_stalled(self) -> None:
        """An upload is given up when the server stops taking it, not when the client is slow."""
        client = self.start("PUT", f"/images/{ID}", content_length=9 * MIB)
        self.install(size=9 * MIB)
        self.assertEqual(client.head and client.head[0], 416, "the export is smaller")
        client = self.start("PUT", f"/images/{ID}", content_length=4 * MIB)
        client.send(bytes(MIB))
        self.pass_time(1000, 50)
        self.assertIsNone(client.head)
        self.nbd.hold = True
        client.send(bytes(3 * MIB))
        self.pass_time(300, 50)
        self.assertEqual((client.head or (0,))[0], 504)
        self.assertEqual(self.nbd.live, [])

    def test_resumed(self) -> None:
        """A server that is killed and comes back is read on where it broke off."""
        client = self.begin()
        self.nbd.live[0].transport.abortConnection()
        del self.network.servers[SOCKET]
        self.network.pump()
        self.pass_time(5, 0.1)
        self.assertIsNone(client.lost)
        self.nbd = self.serve(Image(bytearray(DATA)))
        client.transport.resumeProducing()
        self.pass_time(5, 0.1)
        reply = client.take()
        self.assertTrue(reply is not None and reply.body == DATA)

    def test_not_resumed(self) -> None:
        """After half a minute the download is cut; so it is when the export is shorter by now."""
        for image in (None, Image(bytearray(1000))):
            self.nbd = self.serve(Image(bytearray(DATA)))
            client = self.begin()
            self.nbd.live[0].transport.abortConnection()
            del self.network.servers[SOCKET]
            if image is not None:
                self.serve(image)
            self.network.pump()
            client.transport.resumeProducing()
            self.pass_time(40, 0.1)
            self.assertIsNotNone(client.lost)
            self.assertIsNone(client.take())

    def begin(self) -> Client:
        """A download that is held up by its client."""
        client = self.connect()
        client.transport.pauseProducing()
        client.send(self.request("GET", f"/images/{ID}"))
        self.network.pump()
        return client

    def test_bounded(self) -> None:
        """R7: for a client that does not read, no more than a mebibyte is asked for."""
        self.begin()
        asked = sum(length for _, length, _ in self.log(nbd.READ))
        self.assertLessEqual(asked, 5 * READ)

    def test_bounded_upload(self) -> None:
        """R7: a server that takes requests and does not finish them gets a few, and the client waits."""
        self.nbd = self.serve(Image(bytearray(16 * MIB)))
        self.install(size=16 * MIB)
        self.image("OPTIONS")
        self.nbd.hold = True
        data = os.urandom(MIB) * 16
        client = self.start("PUT", f"/images/{ID}", data)
        self.assertLess(len(self.nbd.live[0].kept), 6 * MIB)
        self.nbd.live[0].transport.pauseProducing()
        self.nbd.hold = False
        self.nbd.live[0].go()
        self.network.pump()
        self.assertLess(len(self.nbd.live[0].transport.other.out), MIB)
        self.nbd.live[0].transport.resumeProducing()
        self.nbd.live[0].go()
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 200)
        self.assertTrue(self.nbd.image.data == data)

    def test_lost_while_writing(self) -> None:
        """A server that is lost in the middle of an upload is told at once."""
        for sent in (0, 1, MIB, MIB + 1):
            client = self.start("PUT", f"/images/{ID}", content_length=2 * MIB)
            client.send(bytes(sent))
            self.network.pump()
            self.nbd.live[0].transport.abortConnection()
            self.network.pump()
            self.assertEqual((client.head or (0,))[0], 502, sent)

    def test_revoked(self) -> None:
        """Revocation drops the connection in the same turn, whatever is under way on it."""
        self.nbd.image.structured = True
        for method, body, more in (
            ("GET", None, ""),
            ("PUT", bytes(MIB), ""),
            ("PATCH", b'{"op": "zero", "size": 5}', ""),
            ("PATCH", b'{"op": "flush"}', ""),
            ("GET", None, "/extents"),
            ("GET", None, "/checksum"),
        ):
            self.install()
            self.image("OPTIONS")
            self.nbd.hold = True
            self.start(method, f"/images/{ID}{more}", body)
            self.assertEqual(len(self.nbd.live), 1)
            self.assertNotEqual(self.nbd.live[0].kept, b"", "the server is at work")
            Deferred.fromCoroutine(self.registry.revoke(ID, tombstone=False))
            self.assertEqual(
                [it for it in self.network.ends if it.protocol in self.nbd.live and not it.lost], []
            )
            self.nbd.hold = False
            self.pass_time(1, 0.1)
            self.assertEqual(self.nbd.live, [], (method, more))

    def test_left(self) -> None:
        """A client that leaves takes its connection with it."""
        client = self.begin()
        client.transport.abortConnection()
        self.network.pump()
        self.assertEqual(self.nbd.live, [])


class PoolTests(_Case):
    """How many connections there are."""

    def test_reused(self) -> None:
        """Operations one after another share a connection, which is closed when nobody has used it."""
        for _ in range(3):
            self.image("GET", range="bytes=0-9")
            self.image("PUT", b"abc")
        self.assertEqual(len(self.nbd.wires), 1)
        self.pass_time(29)
        self.assertEqual(len(self.nbd.live), 1)
        self.pass_time(2)
        self.assertEqual(self.nbd.live, [])
        self.assertEqual(self.nbd.image.log[-1][0], nbd.DISC)
        self.assertEqual(self.image("GET", range="bytes=0-9").status, 206)

    def test_server_gone(self) -> None:
        """A connection that was closed while idle is not used again."""
        self.image("GET", range="bytes=0-9")
        self.nbd.live[0].transport.loseConnection()
        self.network.pump()
        self.assertEqual(self.image("GET", range="bytes=0-9").status, 206)
        self.assertEqual(len(self.nbd.wires), 2)

    def test_several(self) -> None:
        """Up to eight at once where the server allows it; the next waits for its turn."""
        self.service.operations = None
        clients = [self.held() for _ in range(10)]
        self.assertEqual(len(self.nbd.live), 8)
        for client in clients:
            client.transport.resumeProducing()
        self.pass_time(1, 0.1)
        for client in clients:
            reply = client.take()
            self.assertTrue(reply is not None and reply.body == DATA)
        self.assertEqual(len(self.nbd.wires), 8)

    def held(self) -> Client:
        client = self.connect()
        client.transport.pauseProducing()
        client.send(self.request("GET", f"/images/{ID}"))
        self.network.pump()
        return client

    def test_one(self) -> None:
        """A server that does not say so gets one connection; others wait, but for OPTIONS."""
        self.nbd.image.flags &= ~nbd.MULTI
        self.held()
        self.assertEqual(self.image("OPTIONS").json()["max_writers"], 1)
        second = self.start("PUT", f"/images/{ID}", b"abc")
        self.assertIsNone(second.head)
        self.assertEqual(len(self.nbd.wires), 1)
        self.pass_time(31, 1)
        self.assertEqual((second.head or (0,))[0], 503)

    def test_left_in_line(self) -> None:
        """Who leaves the line does not get a connection; the next one does."""
        self.nbd.image.flags &= ~nbd.MULTI
        first = self.held()
        second = self.start("PUT", f"/images/{ID}", b"abc")
        third = self.start("PUT", f"/images/{ID}", b"xyz")
        second.transport.abortConnection()
        self.network.pump()
        first.transport.resumeProducing()
        self.pass_time(1, 0.1)
        self.assertEqual((third.head or (0,))[0], 200)
        self.assertEqual(self.nbd.image.data[:3], b"xyz")

    def test_failed_opening(self) -> None:
        """A connection that cannot be made leaves no gap: the ones that wait try for themselves."""
        self.nbd.greets = False
        clients = [self.start("GET", f"/images/{ID}", range="bytes=0-9") for _ in range(3)]
        self.pass_time(9, 0.1)
        self.nbd.greets = True
        self.pass_time(3, 0.1)
        self.assertEqual(sorted((it.head or (0,))[0] for it in clients), [206, 206, 504])
        self.dialer.fails = [errors.UpstreamFailed(reason="refused")]
        self.leave()
        self.assertEqual(self.image("GET").status, 502)
        self.assertEqual(self.image("GET", range="bytes=0-9").status, 206)
