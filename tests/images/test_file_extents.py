"""Extents: what is data and what is zero, in order, complete, and in bounded memory."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from gateway.images import file_extents
from gateway.images.file_extents import Seek, extents
from gateway.images.open_file import OpenFile
from gateway.images.target import Document

MAPS = st.lists(st.tuples(st.booleans(), st.integers(1, 50)), max_size=12)


def seek_in(data: list[bool]) -> Seek:
    """The ``lseek`` of a file of which *data* says of every byte whether it is allocated."""

    def seek(start: int, what: int) -> int:
        if start >= len(data):
            raise OSError(errno.ENXIO, "no such device or address")
        wanted = what == os.SEEK_DATA
        for at in range(start, len(data)):
            if data[at] == wanted:
                return at
        if wanted:
            raise OSError(errno.ENXIO, "no such device or address")
        return len(data)

    return seek


class WalkTests(SynchronousTestCase):
    """The walk through a file."""

    @settings(max_examples=150, deadline=None)
    @given(MAPS, st.integers(0, 400), st.integers(-100, 100))
    def test_all_told(self, runs: list[tuple[bool, int]], start: int, more: int) -> None:
        """From any start to any end there is no gap, no overlap, nothing to merge, and each byte is right."""
        data = [kind for kind, count in runs for _ in range(count)]
        stop = max(0, len(data) + more)
        start = min(start, stop)
        found = list(extents(seek_in(data), start, stop))
        self.assertEqual(found[0].start, start)
        self.assertEqual(found[-1].start + found[-1].length, stop)
        for one, other in pairwise(found):
            self.assertEqual(one.start + one.length, other.start)
            self.assertNotEqual(one.zero, other.zero)
            self.assertTrue(one.length)
        for it in found:
            for at in range(it.start, it.start + it.length):
                self.assertEqual(it.zero, at >= len(data) or not data[at])

    def test_cannot_tell(self) -> None:
        """On a file system that does not know, all is data; any other failure is one."""

        def unable(start: int, what: int) -> int:
            raise OSError(errno.EINVAL, "invalid argument")

        def broken(start: int, what: int) -> int:
            raise OSError(errno.EIO, "input/output error")

        self.assertEqual(list(extents(unable, 0, 10)), [(0, 10, False)])
        self.assertRaises(OSError, list, extents(broken, 0, 10))

    def test_changes_meanwhile(self) -> None:
        """A hole that appears where data was found a moment ago does not hold up the walk."""
        found = list(extents(lambda start, what: start, 0, 10))
        self.assertEqual(found, [(0, 10, False)])


class DocumentTests(SynchronousTestCase):
    """The list as a client gets it."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.calls = 0

    def opened(self) -> OpenFile:
        descriptor = os.open(self.path, os.O_RDONLY)

        def at_once(function: Callable[..., object], *args: object) -> Deferred[object]:
            self.calls += 1
            return succeed(function(*args))

        return OpenFile(at_once, descriptor, self.path.stat().st_size)

    def document(self) -> Document:
        return self.successResultOf(Deferred.fromCoroutine(file_extents.document(self.opened())))

    def test_short(self) -> None:
        """A short list has a length; an image of nothing is one extent of nothing."""
        self.path.write_bytes(b"")
        for size in (0, 100):
            os.truncate(self.path, size)
            document, got = self.document(), bytearray()
            self.successResultOf(document.source.deliver(got.extend))
            self.assertEqual(len(got), document.length)
            self.assertEqual(json.loads(got), [{"start": 0, "length": size, "zero": size > 0, "hole": False}])

    def many(self, count: int) -> None:
        """Make a file of *count* extents of data, each after a hole."""
        block = 4096
        with self.path.open("wb") as file:
            for number in range(count):
                os.pwrite(file.fileno(), b"x", (2 * number + 1) * block)
            file.truncate(2 * count * block)

    def test_long(self) -> None:
        """A list of thousands comes piece by piece, no faster than it is taken, and leaves nothing open."""
        self.many(5000)
        before = len(os.listdir("/proc/self/fd"))
        document, got = self.document(), bytearray()
        self.assertIsNone(document.length)
        pieces: list[int] = []

        def take(piece: bytes) -> None:
            got.extend(piece)
            pieces.append(len(piece))
            document.source.pauseProducing()

        delivered = document.source.deliver(take)
        while not delivered.called:
            calls = self.calls
            document.source.resumeProducing()
            self.assertLessEqual(self.calls, calls + 2)
        self.successResultOf(delivered)
        listed = json.loads(got)
        self.assertEqual(len(listed), 10_000)
        self.assertEqual([it["zero"] for it in listed], [True, False] * 5000)
        self.assertEqual([it["start"] for it in listed], list(range(0, 10_000 * 4096, 4096)))
        self.assertLess(max(pieces), 512 * 1024)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_left(self) -> None:
        """A client that leaves in between leaves nothing open."""
        self.many(5000)
        before = len(os.listdir("/proc/self/fd"))
        document = self.document()
        delivered = document.source.deliver(lambda piece: document.source.pauseProducing())
        delivered.cancel()
        self.failureResultOf(delivered)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
