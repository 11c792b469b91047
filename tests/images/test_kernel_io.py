"""Pieces of files that the kernel moves: every byte in its place, and nothing the reactor would wait for."""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute, gatherResults

from gateway.images import direct_io, file_io
from gateway.images.buffers import PIECE
from gateway.images.direct_io import PAGE
from gateway.images.kernel_io import Elsewhere
from tests.support import ReactorTestCase

DATA = os.urandom(4 * PIECE)


class ElsewhereTests(ReactorTestCase):
    """On a file whose bytes are on the disk, and in no cache."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.threads: list[Callable[..., Any]] = []
        self.elsewhere = Elsewhere(reactor, self.in_thread)
        self.elsewhere.start()
        self.file = os.open(self.mktemp(), os.O_RDWR | os.O_CREAT)
        content = direct_io.new_buffer(len(DATA))
        content[:] = DATA
        direct_io.write(self.file, content, 0)
        os.fsync(self.file)

    def tearDown(self) -> None:
        self.elsewhere.stop()
        os.close(self.file)

    def in_thread(self, function: Callable[..., Any], *args: object) -> Deferred[Any]:
        self.threads.append(function)
        return execute(function, *args)

    def able(self) -> bool:
        """Whether this file system knows anything but waiting."""
        flags = fcntl.fcntl(self.file, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self.file, fcntl.F_SETFL, flags | os.O_DIRECT)
            os.preadv(self.file, [direct_io.new_buffer(PAGE)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            fcntl.fcntl(self.file, fcntl.F_SETFL, flags)
        return True

    def assert_few_threads(self, pieces: int) -> None:
        """A busy kernel may refuse a piece here and there, but not all of them."""
        if self.able():
            self.assertLess(len(self.threads), pieces)

    async def read(self, start: int, size: int) -> bytes:
        buffer = direct_io.new_buffer(size)
        count: int = await self.elsewhere(direct_io.read_into, self.file, buffer, start)
        return bytes(buffer[:count])

    def write(self, data: bytes, start: int) -> Deferred[None]:
        buffer = direct_io.new_buffer(len(data) + -len(data) % PAGE)[: len(data)]
        buffer[:] = data
        return self.elsewhere(direct_io.write, self.file, buffer, start)

    async def test_read(self) -> None:
        """Pieces come whole, without a thread."""
        flags = fcntl.fcntl(self.file, fcntl.F_GETFL)
        for at in range(0, len(DATA), PIECE // 2):
            self.assertTrue(await self.read(at, PIECE // 2) == DATA[at : at + PIECE // 2])
        self.assert_few_threads(8)
        self.assertEqual(fcntl.fcntl(self.file, fcntl.F_GETFL), flags)

    async def test_write(self) -> None:
        """Many pieces at once all go where they belong, without a thread."""
        pieces = [os.urandom(PIECE) for _ in range(4)]
        await gatherResults([self.write(piece, at * PIECE) for at, piece in enumerate(pieces)])
        self.assertTrue(os.pread(self.file, len(DATA), 0) == b"".join(pieces))
        self.assert_few_threads(4)

    async def test_more_than_are_taken(self) -> None:
        """However many there are, all are moved; beyond some number by threads."""
        size = 4 * PAGE
        pieces = [self.read(size * at, size) for at in range(200)]
        got = await gatherResults([Deferred.fromCoroutine(piece) for piece in pieces])
        self.assertTrue(b"".join(got) == DATA[: 200 * size])

    async def test_end(self) -> None:
        """A file that ends within a piece gives what it has."""
        os.ftruncate(self.file, PIECE + 100)
        self.assertTrue(await self.read(PIECE, PIECE) == DATA[PIECE : PIECE + 100])
        self.assertEqual(await self.read(2 * PIECE, PIECE), b"")

    async def test_no_space_yet(self) -> None:
        """What needs space, in a hole or at the end, is no work for the reactor's thread."""
        os.ftruncate(self.file, 0)
        os.ftruncate(self.file, PIECE)
        await self.write(DATA[:PIECE], 0)
        await self.write(DATA[PIECE : 2 * PIECE], PIECE)
        self.assertEqual(self.threads, [direct_io.write] * 2)
        self.assertTrue(os.pread(self.file, len(DATA), 0) == DATA[: 2 * PIECE])

    async def test_cached(self) -> None:
        """What was just written to the cache, and not to the disk, is what is read."""
        os.pwrite(self.file, b"new" * PAGE, PAGE)
        self.assertTrue((await self.read(0, PIECE))[PAGE : 4 * PAGE] == b"new" * PAGE)
        await self.write(DATA[:PIECE], 0)
        self.assertTrue(os.pread(self.file, PIECE, 0) == DATA[:PIECE])

    async def test_parts_of_pages(self) -> None:
        """What is not whole pages goes where it belongs, too."""
        await self.write(b"x" * 5000, PAGE)
        await self.write(b"y" * PAGE, 3 * PAGE + 7)
        expected = bytearray(DATA)
        expected[PAGE : PAGE + 5000] = b"x" * 5000
        expected[3 * PAGE + 7 : 4 * PAGE + 7] = b"y" * PAGE
        self.assertTrue(os.pread(self.file, len(DATA), 0) == expected)

    async def test_refused(self) -> None:
        """What cannot be done fails as it does anywhere."""
        other = os.open(f"/proc/self/fd/{self.file}", os.O_RDONLY)
        try:
            with self.assertRaises(OSError):
                await self.elsewhere(direct_io.write, other, direct_io.new_buffer(PAGE), 0)
        finally:
            os.close(other)

    async def test_other_work(self) -> None:
        """Everything else is for threads."""
        await self.elsewhere(os.fsync, self.file)
        await self.elsewhere(file_io.write, self.file, b"z", 0)
        self.assertEqual(self.threads, [os.fsync, file_io.write])

    async def test_not_started(self) -> None:
        """Before it begins, and where it cannot, threads do all of it; so it is afterwards."""
        self.elsewhere.stop()
        self.assertTrue(await self.read(0, PIECE) == DATA[:PIECE])
        self.assertEqual(self.threads, [direct_io.read_into])

    async def test_one_in_a_turn(self) -> None:
        """Pieces that are there at once are given one after the other, so that others have their turn."""
        reads: list[Deferred[Any]] = [Deferred.fromCoroutine(self.read(at * PIECE, PIECE)) for at in range(4)]
        if not self.threads and self.able():
            self.assertTrue(select.select([self.elsewhere], [], [], 20)[0], "some of it is there")
            time.sleep(0.5)
            self.elsewhere.doRead()
            self.assertEqual(sum(read.called for read in reads), 1)
        self.assertTrue(b"".join(await gatherResults(reads)) == DATA)

    def test_stop(self) -> None:
        """Who stops it waits for what is on its way: no memory is written to afterwards."""
        descriptors = len(os.listdir("/proc/self/fd"))
        reading = Deferred.fromCoroutine(self.read(0, len(DATA)))
        self.elsewhere.stop()
        self.assertTrue(self.successResultOf(reading) == DATA)
        self.assertEqual(len(os.listdir("/proc/self/fd")), descriptors - 1)
