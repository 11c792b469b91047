"""Volumes of hypervisors, through the whole relay: streams that the test holds the other end of."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from gateway import errors
from gateway.images.targets import Targets
from gateway.rpc.volume_stream import VolumeDownload, VolumeUpload
from gateway.wire.hypervisor_url import VolumePlace
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.volume_xml import VolumeInfo
from tests.images.stage import ID, OTHER, Client, Reply, StageTestCase
from tests.rpc.fake_stream import FakeStream

MIB = 1 << 20
CHUNK = 262120
DATA = os.urandom(3 * MIB + 1000)
URL = "libvirt://lab/p1/disk%201"


class Volumes:
    """One volume.

    :ivar data: its bytes.
    :ivar asked: the ranges of all downloads and uploads.
    :ivar streams: all of them.
    :ivar fails: what the next calls fail with.
    :ivar live: downloads come by themselves.
    """

    def __init__(self) -> None:
        self.data = bytearray(DATA)
        self.capacity = len(DATA)
        self.format = "raw"
        self.where: Any = ()
        self.asked: list[tuple[str, int, int]] = []
        self.streams: list[FakeStream] = []
        self.fails: list[errors.GatewayError] = []
        self.live = True
        self.confirms = True

    async def info(self, place: VolumePlace, *, principal: str) -> VolumeInfo:
        self.where = (place, principal)
        self._fail()
        return VolumeInfo(self.capacity, len(self.data), self.format)

    async def download(
        self, place: VolumePlace, offset: int, length: int, *, principal: str
    ) -> VolumeDownload:
        self._fail()
        self.where = (place, principal)
        self.asked.append(("get", offset, length))
        view = bytes(self.data[offset : offset + length])
        pieces = [view[at : at + CHUNK] for at in range(0, length, CHUNK)] if self.live else []
        self.streams.append(FakeStream(*pieces, ends=self.live))
        return VolumeDownload(self.streams[-1], length)

    async def upload(self, place: VolumePlace, offset: int, length: int, *, principal: str) -> VolumeUpload:
        self._fail()
        self.where = (place, principal)
        self.asked.append(("put", offset, length))
        stream = FakeStream()
        stream.confirms = self.confirms

        def over(word: str) -> None:
            if word == "finished":
                self.data[offset : offset + len(stream.told)] = stream.told

        stream.when_over(over)
        self.streams.append(stream)
        return VolumeUpload(stream)

    def _fail(self) -> None:
        if self.fails:
            raise self.fails.pop(0)


class _Case(StageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.volumes = Volumes()
        before = self.service.targets
        self.service.targets = Targets(before.upstreams, before.in_thread, volumes=self.volumes)
        self.install()
        self.addCleanup(self.closed)

    def closed(self) -> None:
        self.assertEqual([it for it in self.volumes.streams if not it.over], [])

    def install(self, **members: Any) -> None:
        self.add(**{"url": URL, "size": len(DATA), **members})

    def stream(self) -> FakeStream:
        return self.volumes.streams[-1]

    def begin(self, length: int = 2 * MIB, sent: int = MIB) -> Client:
        """An upload of *length* bytes, of which the first are sent."""
        client = self.start("PUT", f"/images/{ID}", content_length=length)
        client.send(DATA[:sent])
        self.network.pump()
        return client

    def answer(self, client: Client) -> Reply:
        reply = client.take()
        assert reply is not None, bytes(client.got[:300])
        return reply


class OperationTests(_Case):
    """What the images API can do."""

    def test_read(self) -> None:
        """Whole and in parts; names are decoded, and every stream is closed."""
        self.assertEqual(self.image("GET").body, DATA)
        self.assertEqual(self.volumes.where, (VolumePlace("lab", "p1", "disk 1"), ""))
        for value, start, stop in (
            ("bytes=5-1999999", 5, 2_000_000),
            ("bytes=-3", len(DATA) - 3, len(DATA)),
            (f"bytes={MIB}-", MIB, len(DATA)),
        ):
            reply = self.image("GET", range=value)
            self.assertEqual((reply.status, reply.body == DATA[start:stop]), (206, True))
            self.assertEqual(reply.fields["content-range"], f"bytes {start}-{stop - 1}/{len(DATA)}")
            self.assertEqual(self.volumes.asked[-1], ("get", start, stop - start))
        self.assertEqual(self.image("GET", range=f"bytes={len(DATA)}-").status, 416)

    def test_head(self) -> None:
        """HEAD tells the length, and opens no stream."""
        self.assertEqual(self.image("HEAD").fields["content-length"], str(len(DATA)))
        self.assertEqual(self.volumes.streams, [])

    def test_bounds(self) -> None:
        """A ticket smaller than its volume shows that much; one that is larger, the volume."""
        self.install(size=100)
        self.assertEqual(self.image("GET").body, DATA[:100])
        self.assertEqual(self.image("GET", range="bytes=0-100").status, 416)
        self.assertEqual(self.image("PUT", bytes(101)).status, 416)
        self.install(size=2 * len(DATA))
        self.assertEqual(self.image("GET").body, DATA)
        self.assertEqual([it[0] for it in self.volumes.asked], ["get", "get"])

    def test_other_formats(self) -> None:
        """What is read of a qcow2 is its file, whatever a machine sees; only the ticket bounds its growth."""
        self.volumes.format, self.volumes.capacity = "qcow2", 64 * MIB
        self.assertEqual(self.image("GET").body, DATA)
        self.volumes.data = self.volumes.data[:MIB]
        self.assertEqual(self.image("PUT", DATA).status, 200)
        self.assertEqual(self.volumes.data, DATA)
        self.volumes.format, self.volumes.capacity = "raw", MIB
        self.volumes.data = self.volumes.data[:MIB]
        self.assertEqual(self.image("PUT", DATA).status, 416, "a raw volume does not grow")

    def test_empty(self) -> None:
        """Nothing is read, or written, by no stream: a length of 0 would mean all there is."""
        self.volumes.data, self.volumes.capacity = bytearray(), 0
        self.assertEqual((self.image("GET").status, self.image("PUT", b"").status), (200, 200))
        self.assertEqual(self.volumes.asked, [])
        self.volumes.fails = [errors.NotFound()]
        self.assertEqual(self.image("PUT", b"").status, 404)

    def test_write(self) -> None:
        """Whole, and at an offset; the bytes around it stay."""
        new = os.urandom(len(DATA))
        self.assertEqual(self.image("PUT", new).status, 200)
        self.assertEqual(self.volumes.data, new)
        reply = self.image("PUT", DATA[:1000], content_range="bytes 500-1499/*")
        self.assertEqual((reply.status, self.volumes.asked[-1]), (200, ("put", 500, 1000)))
        self.assertEqual(self.volumes.data, new[:500] + DATA[:1000] + new[1500:])

    def test_chunked(self) -> None:
        """A body whose length is not told becomes one stream for each segment."""
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(DATA), DATA[::-1])
        self.assertEqual(self.image("PUT", body, transfer_encoding="chunked").status, 200)
        self.assertEqual(self.volumes.data, DATA[::-1])

    def test_patch(self) -> None:
        """A flush has nothing to do; what cannot be zeroed is refused, and nobody is told otherwise."""
        self.assertEqual(self.image("PATCH", b'{"op": "flush"}').status, 200)
        self.assertEqual(self.image("PATCH", b'{"op": "zero", "size": 5}').status, 501)
        options = self.image("OPTIONS").json()
        self.assertEqual(options, {"features": ["checksum", "extents", "flush"]} | self.connections())

    def connections(self) -> dict[str, int]:
        return {"max_readers": 8, "max_writers": 8}

    def test_extents(self) -> None:
        """All is data."""
        found = self.image("GET", more="/extents").json()
        self.assertEqual(found, [{"start": 0, "length": len(DATA), "zero": False, "hole": False}])
        self.assertEqual(self.image("GET", more="/extents?context=x").status, 400)
        self.install(dirty=True)
        self.assertEqual(self.image("GET", more="/extents?context=dirty").status, 404)

    def test_checksum(self) -> None:
        """The checksum of what is read."""
        block = 2 * MIB
        blocks = [
            blake2b(DATA[at : at + block], digest_size=32).digest() for at in range(0, len(DATA), block)
        ]
        digest = blake2b(b"".join(blocks), digest_size=32).hexdigest()
        reply = self.image("GET", more=f"/checksum?algorithm=blake2b&block_size={block}")
        self.assertEqual(reply.json(), {"algorithm": "blake2b", "block_size": block, "checksum": digest})


class TrustTests(_Case):
    """Who may name a hypervisor."""

    def test_signed(self) -> None:
        """Only the engine itself: a signed token never does."""
        token = self.jwt(uuid=OTHER, url=URL)
        self.assertEqual(self.ask("GET", f"/images/{OTHER}", authorization=token).status, 501)
        self.assertEqual(self.volumes.where, ())

    def test_not_served(self) -> None:
        """Where no hypervisor is served, none can be named."""
        targets = self.service.targets
        self.service.targets = Targets(targets.upstreams, targets.in_thread)
        reply = self.image("GET")
        self.assertEqual((reply.status, "libvirt" in reply.text), (501, True))

    def test_principal(self) -> None:
        """All is asked in the name of whoever has the ticket."""
        self.install(principal="alice")
        for ask in (lambda: self.image("GET"), lambda: self.image("PUT", DATA), lambda: self.image("HEAD")):
            self.volumes.where = ()
            self.assertEqual(ask().status, 200)
            self.assertEqual(self.volumes.where[1], "alice")

    def test_session(self) -> None:
        """The list of sessions names the hypervisor, and no volume."""
        client = self.begin()
        [session] = self.sessions.list()
        self.assertEqual((session.target, session.bytes_in), ("libvirt://lab", MIB))
        client.transport.abortConnection()
        self.network.pump()


class StreamTests(_Case):
    """The life of one stream."""

    def test_confirmed(self) -> None:
        """An upload is answered when the hypervisor has confirmed that it is stored, and not before."""
        self.volumes.confirms = False
        client = self.begin(sent=2 * MIB)
        self.assertEqual((self.stream().finished, client.head), (True, None))
        self.stream().confirm()
        self.network.pump()
        self.assertEqual(self.answer(client).status, 200)
        self.assertTrue(self.stream().closed)

    def test_cut_short(self) -> None:
        """An upload that ends early is aborted: nothing says that it is whole."""
        client = self.begin()
        client.transport.abortConnection()
        self.network.pump()
        self.assertEqual((self.stream().over, self.stream().finished), ("aborted", False))

    def test_upload_waits(self) -> None:
        """A hypervisor that does not keep up stops the client, and loses nothing."""
        client = self.begin(length=3 * MIB, sent=1000)
        self.stream().full(True)
        client.send(DATA[1000 : 3 * MIB])
        self.network.pump()
        self.assertLess(len(self.stream().told), 2 * MIB)
        self.stream().full(False)
        self.network.pump()
        self.assertEqual(self.answer(client).status, 200)
        self.assertEqual(self.volumes.data, DATA)

    def test_download_waits(self) -> None:
        """A client that does not keep up stops the hypervisor, and loses nothing."""
        client = self.connect()
        client.transport.pauseProducing()
        client.send(self.request("GET", f"/images/{ID}"))
        self.network.pump()
        self.assertEqual((self.stream().flowing, self.stream().over), (False, ""))
        client.transport.resumeProducing()
        self.network.pump()
        self.assertEqual(self.answer(client).body, DATA)

    def test_stalled(self) -> None:
        """An upload is given up when the hypervisor stops taking it, not when the client is slow."""
        client = self.begin()
        self.pass_time(1000, 50)
        self.assertIsNone(client.head)
        self.stream().full(True)
        self.pass_time(300, 50)
        self.assertEqual((client.head or (0,))[0], 504)

    def test_never_confirmed(self) -> None:
        """So it is when the end is never confirmed."""
        self.volumes.confirms = False
        client = self.begin(sent=2 * MIB)
        self.pass_time(300, 50)
        self.assertEqual((client.head or (0,))[0], 504)

    def test_refused(self) -> None:
        """What the hypervisor says in the middle, or at the end, is the answer."""
        for confirms, sent in ((True, MIB), (False, 2 * MIB)):
            self.volumes.confirms = confirms
            client = self.begin(sent=sent)
            self.stream().breaks(LibvirtError(55, text="/secret is in use"))
            self.network.pump()
            reply = self.answer(client)
            self.assertEqual((reply.status, "secret" in reply.text), (409, False))
        self.assertEqual(self.volumes.data, DATA)

    def test_refused_before(self) -> None:
        """Calls that fail are answered with what they say, and no body is taken."""
        for error, status in ((errors.NoTarget(), 404), (errors.TargetDown(), 502), (errors.Busy(), 503)):
            for method, body in (("GET", None), ("PUT", b"x"), ("HEAD", None)):
                self.volumes.fails = [error]
                self.assertEqual(self.image(method, body).status, status)
        self.assertEqual(self.volumes.streams, [])

    def test_revoked(self) -> None:
        """A revoked ticket ends what runs under it in the same turn, both ways."""
        self.volumes.live = False
        for begin in (self.begin, lambda: self.start("GET", f"/images/{ID}")):
            self.install()
            begin()
            self.assertEqual(self.stream().over, "")
            self.assertEqual(self.control("DELETE", f"/tickets/{ID}").status, 204)
            self.assertEqual((self.stream().over, self.sessions.list()), ("aborted", ()))
            self.pass_time(1)


class ResumeTests(_Case):
    """Downloads that break off."""

    def broken(self, do: Callable[[], object] = lambda: None) -> Client:
        """A download whose stream breaks in the middle."""
        self.volumes.live = False
        client = self.start("GET", f"/images/{ID}")
        self.stream().says(DATA[:CHUNK])
        self.network.pump()
        do()
        self.stream().breaks(errors.UpstreamFailed())
        return client

    def test_resumed(self) -> None:
        """It is taken up where it broke, when the hypervisor is back."""

        def away() -> None:
            self.volumes.live = True
            self.volumes.fails = [errors.TargetDown(), errors.UpstreamTimeout(), errors.Busy()]

        client = self.broken(away)
        self.pass_time(5, 0.1)
        self.assertEqual(self.answer(client).body, DATA)
        self.assertEqual(self.volumes.asked[-1], ("get", CHUNK, len(DATA) - CHUNK))

    def test_not_resumed(self) -> None:
        """After half a minute, or when the volume is gone or shorter by now, the download is cut."""
        for do in (
            lambda: self.volumes.fails.extend([errors.TargetDown()] * 1000),
            lambda: self.volumes.fails.extend([errors.NotFound()] * 2),
            lambda: self.volumes.data.__delitem__(slice(MIB, None)),
            lambda: self.volumes.data.__delitem__(slice(CHUNK, None)),
        ):
            client = self.broken(do)
            self.pass_time(40, 0.1)
            self.assertIsNotNone(client.lost)
            self.assertIsNone(client.take())
            self.volumes.data, self.volumes.fails = bytearray(DATA), []

    def test_silent(self) -> None:
        """A hypervisor that says nothing in the middle is asked again."""
        self.volumes.live = False
        client = self.start("GET", f"/images/{ID}")
        self.stream().says(DATA[:CHUNK])
        self.volumes.live = True
        self.pass_time(250, 10)
        self.assertEqual(self.answer(client).body, DATA)
        self.assertEqual(self.volumes.streams[0].over, "aborted")
