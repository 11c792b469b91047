"""The embedded store: files of this machine, only those it may serve, and never on the reactor's thread."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from gateway import errors
from gateway.images.open_file import OpenFile
from gateway.images.store import FileTarget
from gateway.images.target import ALGORITHMS
from gateway.wire.byte_range import Range
from gateway.wire.ticket_json import Kind
from tests.images.stage import ID, Reply, StageTestCase
from tests.support import ReactorTestCase

MIB = 1024 * 1024
DATA = bytes(range(251)) * 20_000


class StoreTests(StageTestCase):
    """Images below a root, through the whole relay."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        self.file = self.root / "disk.raw"
        self.file.write_bytes(DATA)
        self.roots = (self.root,)
        super().setUp()
        self.install()

    def install(self, path: Path | None = None, **members: Any) -> None:
        """Add a ticket for a file."""
        self.add(**{"url": f"file://{path or self.file}", "size": len(DATA), **members})

    def test_read(self) -> None:
        """A file is read whole and in parts, as from a host."""
        self.assertEqual(self.image("GET").body, DATA)
        reply = self.image("GET", range="bytes=5-1999999")
        self.assertEqual((reply.status, reply.body), (206, DATA[5:2_000_000]))
        self.assertEqual(reply.fields["content-range"], f"bytes 5-1999999/{len(DATA)}")
        self.assertEqual(self.image("GET", range="bytes=-3").body, DATA[-3:])
        self.assertEqual(self.image("GET", range=f"bytes={len(DATA)}-").status, 416)
        self.assertEqual(self.image("HEAD").fields["content-length"], str(len(DATA)))

    def test_bounds(self) -> None:
        """A ticket smaller than its file shows that much; one that is larger, the file."""
        self.install(size=100)
        self.assertEqual(self.image("GET").body, DATA[:100])
        self.install(size=2 * len(DATA))
        self.assertEqual(self.image("GET").body, DATA)
        self.assertEqual(self.image("GET", range=f"bytes=0-{len(DATA)}").status, 416)

    def test_write(self) -> None:
        """Bytes go where they belong; chunks, too; nothing else changes."""
        body = os.urandom(2 * MIB + 5)
        self.assertEqual(self.image("PUT", body, content_range="bytes 7-*/*").status, 200)
        self.assertEqual(self.file.read_bytes(), DATA[:7] + body + DATA[7 + len(body) :])
        chunks = b"5\r\nhello\r\n0\r\n\r\n"
        self.image("PUT", chunks, transfer_encoding="chunked", content_range="bytes 1-*/*")
        self.assertEqual(self.file.read_bytes()[:7], DATA[:1] + b"hello" + DATA[6:7])

    def test_growth(self) -> None:
        """A write beyond the end makes the file longer, with a hole in between, up to the ticket's size."""
        self.file.write_bytes(b"")
        self.install(size=64 * MIB)
        self.assertEqual(self.image("PUT", b"end", content_range=f"bytes {64 * MIB - 3}-*/*").status, 200)
        self.assertEqual(self.file.stat().st_size, 64 * MIB)
        self.assertLess(self.file.stat().st_blocks * 512, MIB)
        self.assertEqual(self.image("PUT", b"x", content_range=f"bytes {64 * MIB}-*/*").status, 416)

    def test_zero(self) -> None:
        """A range reads as zeroes; beyond the end the file grows, sparse as the ticket says."""
        self.assertEqual(self.zero(10, 2 * MIB).status, 200)
        self.assertEqual(self.file.read_bytes(), DATA[:10] + bytes(2 * MIB) + DATA[10 + 2 * MIB :])
        for sparse in (True, False):
            self.file.write_bytes(b"abc")
            self.install(size=32 * MIB, sparse=sparse)
            self.zero(1, 32 * MIB - 1)
            self.assertEqual(self.file.stat().st_size, 32 * MIB)
            self.assertEqual(self.file.stat().st_blocks * 512 < MIB, sparse)
            self.assertEqual(self.file.read_bytes(), b"a" + bytes(32 * MIB - 1))

    def zero(self, offset: int, size: int) -> Reply:
        patch = {"op": "zero", "offset": offset, "size": size, "flush": True}
        return self.image("PATCH", json.dumps(patch).encode())

    def test_flush(self) -> None:
        """A flush reaches the file system; so does the end of an upload, unless it says no."""
        calls: list[Any] = []
        real = self.threads.__call__

        def in_thread(function: Any, *args: object) -> Deferred[Any]:
            calls.append(function)
            return real(function, *args)

        self.service.targets = type(self.service.targets)(
            self.service.targets.upstreams, in_thread, self.roots
        )
        for request, flushes in (
            (lambda: self.image("PATCH", b'{"op": "flush"}'), 1),
            (lambda: self.image("PUT", b"a"), 1),
            (lambda: self.image("PUT", b"a", more="?flush=n"), 0),
            (lambda: self.image("PATCH", b'{"op": "zero", "size": 1}'), 0),
            (lambda: self.zero(0, 1), 1),
        ):
            calls.clear()
            self.assertEqual(request().status, 200)
            self.assertEqual(calls.count(os.fsync), flushes)

    def test_describes(self) -> None:
        """One extent of data; all features; and the checksums of the original's definition."""
        self.assertEqual(
            self.image("GET", more="/extents").json(),
            [{"start": 0, "length": len(DATA), "zero": False, "hole": False}],
        )
        self.install(dirty=True)
        self.assertEqual(self.image("GET", more="/extents?context=dirty").status, 404)
        self.assertEqual(self.image("GET", more="/extents?context=x").status, 400)
        self.assertEqual(self.image("OPTIONS").json()["features"], ["checksum", "extents", "flush", "zero"])
        blocks = [DATA[at : at + 4 * MIB] for at in range(0, len(DATA), 4 * MIB)]
        digest = blake2b(b"".join(blake2b(it, digest_size=32).digest() for it in blocks), digest_size=32)
        self.assertEqual(
            self.image("GET", more="/checksum").json(),
            {"algorithm": "blake2b", "block_size": 4 * MIB, "checksum": digest.hexdigest()},
        )
        blocks = [DATA[at : at + MIB] for at in range(0, len(DATA), MIB)]
        other = sha256(b"".join(sha256(it).digest() for it in blocks)).hexdigest()
        reply = self.image("GET", more=f"/checksum?algorithm=sha256&block_size={MIB}")
        self.assertEqual(reply.json()["checksum"], other)

    def test_extents(self) -> None:
        """Holes are told, up to what the ticket covers; no backing file is said to show through them."""
        with self.file.open("wb") as file:
            file.write(b"x" * MIB)
            file.truncate(8 * MIB)
            file.seek(6 * MIB)
            file.write(b"x")
        for size in (8 * MIB, 7 * MIB):
            self.install(size=size)
            expected = [(0, MIB, False), (MIB, 5 * MIB, True), (6 * MIB, 4096, False)]
            expected.append((6 * MIB + 4096, size - 6 * MIB - 4096, True))
            self.assertEqual(
                self.image("GET", more="/extents").json(),
                [{"start": at, "length": count, "zero": zero, "hole": False} for at, count, zero in expected],
            )

    def test_many_extents(self) -> None:
        """A list of thousands of extents reaches the client whole."""
        with self.file.open("wb") as file:
            for number in range(5000):
                os.pwrite(file.fileno(), b"x", number * 8192)
        self.install(size=1 << 40)
        self.assertEqual(len(self.image("GET", more="/extents").json()), 9999)

    def test_sparse(self) -> None:
        """Zeroing gives space back when the ticket says so, and keeps it when not."""
        for sparse in (False, True):
            self.file.write_bytes(b"x" * 8 * MIB)
            self.install(size=8 * MIB, sparse=sparse)
            self.assertEqual(self.zero(MIB, 6 * MIB).status, 200)
            self.assertEqual(self.file.read_bytes(), b"x" * MIB + bytes(6 * MIB) + b"x" * MIB)
            self.assertEqual(self.file.stat().st_blocks * 512 < 4 * MIB, sparse)

    def test_algorithms(self) -> None:
        """Every algorithm that is offered works; any other is a 400 that says which do."""
        for name in ALGORITHMS:
            self.assertEqual(self.image("GET", more=f"/checksum?algorithm={name}").status, 200, name)
        for name in ("shake_128", "md6", "__class__"):
            reply = self.image("GET", more=f"/checksum?algorithm={name}")
            self.assertEqual(reply.status, 400, name)
            self.assertIn("'blake2b'", reply.text)

    def test_outside(self) -> None:
        """R1: what does not lie below a root is not served, however it is written; and is not named."""
        outside = self.root.parent / f"{self.root.name}-secret"
        outside.write_bytes(b"secret")
        link, sub = self.root / "link", self.root / "sub"
        link.symlink_to(outside)
        sub.symlink_to(self.root.parent)
        for path in (
            str(outside),
            "/etc/passwd",
            f"{self.root}/../{outside.name}",
            f"{self.root}/%2e%2e/{outside.name}",
            str(link),
            f"{sub}/{outside.name}",
            f"{self.root}/sub/%2e/{outside.name}",
        ):
            self.install(Path(path)) if "%" not in path else self.add(url=f"file://{path}")
            for method, body in (("GET", None), ("PUT", b"x"), ("OPTIONS", None)):
                reply = self.image(method, body)
                self.assertEqual(reply.status, 403, path)
                self.assertNotIn(self.root.name, reply.text)
        self.assertEqual(outside.read_bytes(), b"secret")

    def test_read_only(self) -> None:
        """A directory of files that nobody may write is served to those who read, whatever else covers it."""
        kept = self.root / "kept"
        kept.mkdir()
        file = kept / "file"
        file.write_bytes(b"0123456789")
        (self.root / "link").symlink_to(file)
        targets = self.service.targets
        for roots in (targets.roots, ()):
            self.service.targets = evolve(targets, roots=roots, readable=(kept,))
            for path in (file, self.root / "link"):
                self.install(path, ops=["write"])
                for method, body in (("GET", None), ("PUT", b"x"), ("OPTIONS", None)):
                    self.assertEqual(self.image(method, body).status, 403, method)
                self.install(path, ops=["read"])
                self.assertEqual(self.image("GET").body, b"0123456789")
                self.assertEqual(self.image("PUT", b"x").status, 403)
                # The same ticket, with more rights.
                self.install(path, ops=["read", "write"])
                for method, body in (("PUT", b"x"), ("PATCH", b'{"op": "flush"}')):
                    self.assertEqual(self.image(method, body).status, 403, method)
        self.assertEqual(file.read_bytes(), b"0123456789")

    def test_never_written(self) -> None:
        """Such a file is not even opened for writing, whoever may have let the request pass."""
        target = FileTarget(self.file, None, False, self.threads, self.clock, read_only=True)
        for work in (
            target.write_segment(0, b"x", flush=True),
            target.zero(0, 10, flush=False),
            target.flush(),
        ):
            self.failureResultOf(Deferred.fromCoroutine(work), errors.Forbidden)
        self.assertEqual(self.file.read_bytes(), DATA)

    def test_link_inside(self) -> None:
        """A link that stays below the root is followed."""
        (self.root / "alias").symlink_to(self.file)
        self.install(self.root / "alias")
        self.assertEqual(self.image("GET").body, DATA)

    def test_link_put_later(self) -> None:
        """A link put in the place of the file after the ticket was judged is not followed."""
        self.image("GET", range="bytes=0-0")
        self.file.unlink()
        self.file.symlink_to("/etc/hostname")
        self.assertEqual(self.image("GET").status, 502)

    def test_directory_put_later(self) -> None:
        """Nor is one in the place of a directory on the way."""
        outside = self.root.parent / f"{self.root.name}-outside"
        inside = self.root / "sub"
        for directory in (outside, inside):
            directory.mkdir()
            (directory / "disk").write_bytes(directory.name.encode())
        self.install(inside / "disk")
        self.assertEqual(self.image("GET").body, b"sub")
        inside.rename(self.root / "old")
        inside.symlink_to(outside)
        for method, body in (("GET", None), ("PUT", b"x"), ("PATCH", b'{"op": "flush"}')):
            self.assertEqual(self.image(method, body).status, 502)
        self.assertEqual((outside / "disk").read_bytes(), outside.name.encode())

    def test_unusable(self) -> None:
        """Missing, a directory, a pipe: a failure of ours, and the path stays unsaid."""
        os.mkfifo(self.root / "pipe")
        for name in ("missing", "pipe", "."):
            self.install(self.root / name)
            for method, body in (("GET", None), ("PUT", b"x"), ("PATCH", b'{"op": "flush"}')):
                reply = self.image(method, body)
                self.assertEqual(reply.status // 100, 5, name)
                self.assertNotIn(self.root.name, reply.text)

    def test_shrinks(self) -> None:
        """R8: a file that becomes shorter while it is read cuts the download."""
        client = self.connect()
        client.transport.pauseProducing()
        client.send(self.request("GET", f"/images/{ID}"))
        self.network.pump()
        os.truncate(self.file, 10)
        client.transport.resumeProducing()
        self.network.pump()
        self.assertIsNone(client.take())
        self.assertIsNotNone(client.lost)

    def test_revoked_while_writing(self) -> None:
        """DELETE is answered only when no thread writes any more, and the file is closed after it."""
        self.threads.hold = True
        client = self.start("PUT", f"/images/{ID}", b"abc")
        self.threads.run()
        self.network.pump()
        self.assertEqual(len(self.threads.waiting), 1, "the write is under way")
        control = self.connect(self.control_site)
        control.send(self.request("DELETE", f"/tickets/{ID}"))
        self.pass_time(1, 0.1)
        self.assertEqual((client.head or (0,))[0], 403)
        self.assertIsNone(control.take(), "somebody still writes")
        self.assertEqual(len(self.threads.waiting), 1, "it must not be closed under the writer")
        self.threads.run()
        self.pass_time(1, 0.1)
        self.threads.run()
        self.pass_time(1, 0.1)
        reply = control.take("DELETE")
        self.assertEqual(reply and reply.status, 204)
        self.assertEqual(self.threads.waiting, [])

    def test_revocation_timed(self) -> None:
        """A revocation lasts until no thread works for the ticket any more, and is counted once."""
        self.threads.hold = True
        self.start("PUT", f"/images/{ID}", b"abc")
        self.threads.run()
        self.network.pump()
        self.ok(self.registry.revoke(ID))
        self.pass_time(3, 1)
        self.assertEqual(self.ends, [], "somebody still writes")
        while self.threads.waiting:
            self.threads.run()
            self.network.pump()
        self.assertEqual(self.ends, [(Kind.IMAGE, 3)])

    def test_left_while_opening(self) -> None:
        """A client that leaves while its file is opened leaves no descriptor behind."""
        before = len(os.listdir("/proc/self/fd"))
        self.threads.hold = True
        client = self.start("GET", f"/images/{ID}")
        client.transport.abortConnection()
        self.network.pump()
        while self.threads.waiting:
            self.threads.run()
            self.network.pump()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_nothing_left_open(self) -> None:
        """No operation leaves a descriptor behind."""
        before = len(os.listdir("/proc/self/fd"))
        for method, body, more in (
            ("GET", None, ""),
            ("HEAD", None, ""),
            ("PUT", b"a", ""),
            ("PATCH", b'{"op": "flush"}', ""),
            ("GET", None, "/extents"),
            ("GET", None, "/checksum"),
        ):
            self.image(method, body, more=more)
        self.image("GET", range="bytes=9999999999-")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class _Given:
    """An upload that is there at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        for at in range(0, len(self._data), 100_000):
            sink(self._data[at : at + 100_000])
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is too late for that."""

    resumeProducing = stopProducing = pauseProducing


class ThreadTests(ReactorTestCase):
    """With a real pool of threads."""

    def setUp(self) -> None:
        from twisted.internet import reactor as ours

        reactor: Any = ours
        self.pool = ThreadPool(0, 4, "files")
        self.pool.start()
        self.addCleanup(self.pool.stop)
        self.names: set[int] = set()
        self.file = Path(self.mktemp()).absolute()
        self.file.write_bytes(DATA)

        def in_thread(function: Any, *args: object) -> Deferred[Any]:
            def run() -> Any:
                self.names.add(threading.get_ident())
                return function(*args)

            return deferToThreadPool(reactor, self.pool, run)

        self.target = FileTarget(self.file, None, False, in_thread, reactor)

    async def _use(self) -> None:
        reading = await self.target.read(Range(3, 3_000_000), None)
        got = bytearray()
        await reading.source.deliver(got.extend)
        self.assertEqual(bytes(got), DATA[3:3_000_001])
        await self.target.write_segment(0, b"abc", flush=True)
        await self.target.zero(3, 5, flush=True)
        await self.target.flush()
        await self.target.checksum("blake2b", MIB)
        await self.target.extents("zero")

    def test_off_the_reactor(self) -> Deferred[None]:
        """Every call into the file system runs in another thread."""

        def check(_: None) -> None:
            self.assertEqual(self.file.read_bytes(), b"abc" + bytes(5) + DATA[8:])
            self.assertTrue(self.names)
            self.assertNotIn(threading.get_ident(), self.names)

        return Deferred.fromCoroutine(self._use()).addCallback(check)

    def test_together(self) -> Deferred[Any]:
        """Uploads, zeroes and downloads of different parts at once do not disturb each other."""
        data = [os.urandom(3 * MIB + 17) for _ in range(3)]

        async def use() -> None:
            at_once = [
                Deferred.fromCoroutine(self.target.write(number * 4 * MIB, len(it), _Given(it), flush=False))
                for number, it in enumerate(data)
            ]
            at_once.append(Deferred.fromCoroutine(self.target.zero(12 * MIB, 4 * MIB, flush=False)))
            await gatherResults(at_once)
            for number, it in enumerate(data):
                start = number * 4 * MIB
                reading = await self.target.read(Range(start, start + len(it) - 1), None)
                got = bytearray()
                await reading.source.deliver(got.extend)
                self.assertTrue(got == it)
            self.assertEqual(await self.target.size(), 16 * MIB)

        return Deferred.fromCoroutine(use())

    def test_a_bug_is_told(self) -> Deferred[Any]:
        """What fails in a thread for another reason than the file is heard of, too."""
        opened = OpenFile(self.target._in_thread, 0, 0)
        return self.assertFailure(opened.call(lambda descriptor: int("x")), ValueError)

    def test_missing(self) -> Deferred[Any]:
        """A file that is not there is a failure with a meaning."""
        self.file.unlink()
        return self.assertFailure(Deferred.fromCoroutine(self.target.size()), errors.UpstreamFailed)
