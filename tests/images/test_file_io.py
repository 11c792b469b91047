"""What threads do to files: only the file that was judged, and zeroes by whatever the file system can do."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.images import file_io
from gateway.images.fallocate import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate

MIB = 1024 * 1024
#: What file systems can do: all; no zero range, as on a network; only allocate; nothing.
ABLE = ((ZERO_RANGE, PUNCH_HOLE | KEEP_SIZE, 0), (PUNCH_HOLE | KEEP_SIZE, 0), (0,), ())

OFFSETS = st.integers(0, 40_000)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, st.binary(max_size=9000)),
        st.tuples(st.sampled_from(["sparse", "full"]), OFFSETS, st.integers(0, 20_000)),
    ),
    max_size=8,
)


class OpenTests(SynchronousTestCase):
    """A ticket's path was judged some time ago."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).resolve()
        self.inside = self.root / "sub" / "deep"
        self.inside.mkdir(parents=True)
        (self.inside / "disk").write_bytes(b"image")

    def test_opened(self) -> None:
        """What is still as it was is opened, with its size."""
        descriptor, size = file_io.open_file(self.inside / "disk", os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        self.assertEqual((os.pread(descriptor, 10, 0), size), (b"image", 5))

    def test_directory_swapped(self) -> None:
        """A link put in the place of a directory on the way is not followed, at whatever depth."""
        outside = self.root.parent / f"{self.root.name}-outside"
        (outside / "deep").mkdir(parents=True)
        for place, target in ((self.root / "sub", outside), (self.inside, outside / "deep")):
            (outside / "deep" / "disk").write_bytes(b"secret")
            place.rename(place.with_name("old"))
            place.symlink_to(target)
            self.assertRaises(OSError, file_io.open_file, self.inside / "disk", os.O_RDONLY)
            place.unlink()
            place.with_name("old").rename(place)

    def test_file_swapped(self) -> None:
        """Nor is one in the place of the file; and a pipe is not waited for."""
        disk = self.inside / "disk"
        disk.unlink()
        disk.symlink_to("/etc/hostname")
        self.assertRaises(OSError, file_io.open_file, disk, os.O_RDONLY)
        disk.unlink()
        os.mkfifo(disk)
        self.assertRaises(OSError, file_io.open_file, disk, os.O_RDONLY)

    def test_nothing_left(self) -> None:
        """No descriptor is left behind, whatever comes of it."""
        before = len(os.listdir("/proc/self/fd"))
        for path in (self.inside, self.root / "missing" / "disk", self.inside / "disk" / "below", Path("/")):
            self.assertRaises(OSError, file_io.open_file, path, os.O_RDONLY)
        os.close(file_io.open_file(self.inside / "disk", os.O_RDONLY)[0])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class ZeroTests(SynchronousTestCase):
    """Zeroes, with and without their space."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_bytes(b"")
        self.descriptor = os.open(self.path, os.O_RDWR)
        self.addCleanup(os.close, self.descriptor)

    @settings(max_examples=60, deadline=None)
    @given(CHANGES, st.sampled_from(ABLE))
    def test_as_written(self, changes: list[tuple[str, int, bytes | int]], able: tuple[int, ...]) -> None:
        """After any writes and zeroes a file holds what they amount to, whatever its file system can do."""
        os.ftruncate(self.descriptor, 0)
        model = bytearray()

        def change(descriptor: int, mode: int, offset: int, length: int) -> bool:
            return mode in able and fallocate(descriptor, mode, offset, length)

        for kind, offset, what in changes:
            data = what if isinstance(what, bytes) else bytes(what)
            if data:
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + len(data)] = data
            if kind == "write":
                file_io.write(self.descriptor, data, offset)
            else:
                file_io.zero(self.descriptor, offset, len(data), kind == "sparse", change)
        self.assertEqual(self.path.read_bytes(), bytes(model))

    def test_space(self) -> None:
        """Sparse zeroes give their space back, and take none beyond the end; the others have theirs."""
        file_io.write(self.descriptor, b"x" * 4 * MIB, 0)
        file_io.zero(self.descriptor, MIB, 8 * MIB, True)
        self.assertEqual(os.fstat(self.descriptor).st_size, 9 * MIB)
        self.assertLess(os.fstat(self.descriptor).st_blocks * 512, 2 * MIB)
        file_io.zero(self.descriptor, MIB, 8 * MIB, False)
        self.assertGreaterEqual(os.fstat(self.descriptor).st_blocks * 512, 9 * MIB)

    def test_many_pieces(self) -> None:
        """Where zeroes have to be written, all of them are."""
        file_io.write(self.descriptor, b"x" * (3 * MIB + 10), 0)
        file_io.zero(self.descriptor, 5, 3 * MIB, False, lambda *_: False)
        self.assertEqual(self.path.read_bytes(), b"x" * 5 + bytes(3 * MIB) + b"x" * 5)

    def test_refused(self) -> None:
        """What fails for another reason than inability is told."""
        reader = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, reader)
        self.assertRaises(OSError, fallocate, reader, 0, 0, 10)


class DigestTests(SynchronousTestCase):
    """Checksums of blocks."""

    def test_holes(self) -> None:
        """A block that is a hole has the digest of its zeroes; so has one that is written zeroes."""
        path = Path(self.mktemp())
        with path.open("wb") as file:
            file.truncate(9 * MIB)
            file.seek(3 * MIB)
            file.write(bytes(MIB) + b"data")
        descriptor = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        data = path.read_bytes()
        for start, stop in ((0, 3 * MIB), (2 * MIB, 5 * MIB), (5 * MIB, 9 * MIB), (8 * MIB, 9 * MIB)):
            expected = blake2b(data[start:stop], digest_size=32).digest()
            self.assertEqual(file_io.block_digest(descriptor, start, stop, "blake2b"), expected)

    def test_shorter(self) -> None:
        """A file that ended meanwhile has no digest, and no zeroes in place of what is gone."""
        path = Path(self.mktemp())
        path.write_bytes(b"x" * 100)
        descriptor = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        for start, stop in ((0, 101), (100, 200), (5000, 6000)):
            self.assertRaises(OSError, file_io.block_digest, descriptor, start, stop, "blake2b")
