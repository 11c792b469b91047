"""Reads and writes past the page cache: the same bytes as ever, and the cache left alone."""

from __future__ import annotations

import ctypes
import errno
import os
from fcntl import F_GETFL, fcntl
from mmap import mmap
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.images import direct_io
from gateway.images.direct_io import LARGE, PAGE

DATA = os.urandom(3 * PAGE + 1000)


def resident(descriptor: int, size: int) -> int:
    """How many pages of a file are in the page cache."""
    with mmap(descriptor, size) as mapped:
        pages = (ctypes.c_ubyte * (size // PAGE))()
        place = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(place), ctypes.c_size_t(size), pages)
        del place
    assert not failed
    return sum(page & 1 for page in pages)


class DirectTests(SynchronousTestCase):
    """One file, through a descriptor for both ways."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.descriptor = self.open(self.path, os.O_RDWR | os.O_CREAT)

    def open(self, path: Path, flags: int) -> int:
        descriptor = os.open(path, flags, 0o600)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def check(self, descriptor: int, size: int, offset: int, buffer: memoryview) -> None:
        """Write *size* bytes at *offset*, and read the pages they are in."""
        os.ftruncate(descriptor, 0)
        buffer[:size] = DATA[:size]
        direct_io.write(descriptor, buffer[:size], offset)
        expected = (bytes(offset) + DATA[:size])[offset - offset % PAGE :]
        buffer[:] = bytes(len(buffer))
        count = direct_io.read_into(descriptor, buffer, offset - offset % PAGE)
        self.assertTrue(bytes(buffer[:count]) == (expected[: len(buffer)] if size else b""))
        self.assertFalse(fcntl(descriptor, F_GETFL) & os.O_DIRECT)

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, len(DATA)), st.sampled_from([0, 1, PAGE - 1, PAGE, 5 * PAGE]) | st.integers(0, 20_000)
    )
    def test_as_written(self, size: int, offset: int) -> None:
        """Bytes of any number come from where they went, and the descriptor is as it was."""
        self.check(self.descriptor, size, offset, direct_io.new_buffer(5 * PAGE))

    def test_places(self) -> None:
        """Buffers begin where a page does, large ones where a huge one does, and are empty."""
        for size, page in (
            (1, PAGE),
            (PAGE, PAGE),
            (5 * PAGE, PAGE),
            (8 << 20, 2 << 20),
            ((8 << 20) + 1, 2 << 20),
        ):
            buffer = direct_io.new_buffer(size)
            self.assertEqual(len(buffer), size)
            self.assertEqual(ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % page, 0)
            self.assertFalse(any(buffer))

    def test_elsewhere(self) -> None:
        """A file system in memory, and buffers at odd places, only go another way."""
        elsewhere = Path(mkdtemp(dir="/dev/shm")) / "file"
        self.addCleanup(elsewhere.parent.rmdir)
        self.addCleanup(elsewhere.unlink)
        self.check(self.open(elsewhere, os.O_RDWR | os.O_CREAT), len(DATA), 0, direct_io.new_buffer(5 * PAGE))
        odd = memoryview(bytearray(5 * PAGE + 1))[1:]
        self.check(self.descriptor, len(DATA), PAGE, odd)

    def test_past_the_cache(self) -> None:
        """What is written and read leaves nothing in the page cache."""
        buffer = direct_io.new_buffer(LARGE)
        direct_io.write(self.descriptor, buffer, 0)
        self.assertEqual(direct_io.read_into(self.descriptor, buffer, 0), LARGE)
        self.assertEqual(resident(self.descriptor, LARGE), 0)
        self.assertEqual(os.pread(self.descriptor, PAGE, 0), bytes(PAGE))
        self.assertGreater(resident(self.descriptor, LARGE), 0)

    def test_errors(self) -> None:
        """What fails for another reason is told, and leaves the descriptor as it was."""
        reader = self.open(self.path, os.O_RDONLY)
        error = self.assertRaises(OSError, direct_io.write, reader, direct_io.new_buffer(PAGE), 0)
        self.assertEqual(error.errno, errno.EBADF)
        self.assertFalse(fcntl(reader, F_GETFL) & os.O_DIRECT)
