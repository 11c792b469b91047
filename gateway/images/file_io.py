"""What is done to an open file: everything here may wait for a disk, and runs in a thread."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from gateway import errors
from gateway.images.fallocate import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from gateway.images.target import ALGORITHMS

#: Bytes read or written by one system call.
PIECE = 1024 * 1024
#: Written where the file system has no other way to zero.
_ZEROES = memoryview(bytes(PIECE))
#: See :func:`gateway.images.fallocate.fallocate`.
Change = Callable[[int, int, int, int], bool]
_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_file(path: Path, flags: int) -> tuple[int, int]:
    """Open a regular file or a block device.

    :param path: absolute and free of symbolic links: it was judged so, and if anybody has put one into it
        since then, be it for a directory, this fails.
    :return: the descriptor, and the size in bytes.
    :raises OSError: it cannot be opened, or is something else.
    """
    at = os.open("/", _WAY)
    try:
        for name in path.parts[1:-1]:
            at, above = os.open(name, _WAY, dir_fd=at), at
            os.close(above)
        # Nobody shall wait at a pipe.
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path.name or ".", flags, dir_fd=at)
    finally:
        os.close(at)
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise OSError(0, "not a regular file")
        if not flags & (os.O_WRONLY | os.O_RDWR):
            # Half the CPU time, and more of the disk, when it has to be read from there.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return descriptor, os.lseek(descriptor, 0, os.SEEK_END)
    except OSError:
        os.close(descriptor)
        raise


def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill *buffer* from *offset*; return how much there was, less than all only at the end of the file."""
    count = 0
    while count < len(buffer):
        got = os.preadv(descriptor, [buffer[count:]], offset + count)
        if not got:
            break
        count += got
    return count


def write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of *data* at *offset*.

    :raises OSError: it cannot be written, or not all of it.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


def zero(descriptor: int, offset: int, size: int, sparse: bool, change: Change = fallocate) -> None:
    """Make a range read as zeroes, a file longer where it ends before; nothing ever makes it shorter.

    When *sparse* its space is given back, else it is allocated. Source: ovirt-imageio 2.5, file backend.

    :param change: what the file system can do, see :func:`~gateway.images.fallocate.fallocate`.
    """
    if not size:
        return
    if sparse:
        # Not by truncate: who writes beyond the range at the same time would lose what he wrote.
        if os.lseek(descriptor, 0, os.SEEK_END) < offset + size:
            write(descriptor, _ZEROES[:1], offset + size - 1)
        done = change(descriptor, PUNCH_HOLE | KEEP_SIZE, offset, size)
    else:
        # A file system on a network may know no zero range, and yet the two others.
        done = change(descriptor, ZERO_RANGE, offset, size) or (
            change(descriptor, PUNCH_HOLE | KEEP_SIZE, offset, size) and change(descriptor, 0, offset, size)
        )
    if done:
        return
    end = offset + size
    while offset < end:
        step = min(end - offset, PIECE)
        write(descriptor, _ZEROES[:step], offset)
        offset += step


def new_hash(algorithm: str) -> Any:
    """Return a hash; blake2b has 32 bytes here. Source: ovirt-imageio 2.5, blkhash.

    :raises gateway.errors.BadRequest: it is none of :data:`ALGORITHMS`.
    """
    if algorithm not in ALGORITHMS:
        # All that the list of algorithms has, as the original says it.
        names = ", ".join(repr(name) for name in sorted(hashlib.algorithms_available))
        raise errors.BadRequest(
            f"Unsupported value '{algorithm}' for 'algorithm', expecting one of [{names}]"
        )
    return hashlib.blake2b(digest_size=32) if algorithm == "blake2b" else hashlib.new(algorithm)


def block_digest(descriptor: int, start: int, stop: int, algorithm: str) -> bytes:
    """Digest one block of an image.

    :raises OSError: it cannot be read, or not all of it.
    """
    if _is_hole(descriptor, start, stop):
        return _zero_digest(stop - start, algorithm)
    digest = new_hash(algorithm)
    buffer = memoryview(bytearray(min(PIECE, stop - start)))
    while start < stop:
        got = read_into(descriptor, buffer[: stop - start], start)
        if not got:
            raise OSError(0, "the file became shorter")
        digest.update(buffer[:got])
        start += got
    result: bytes = digest.digest()
    return result


def _is_hole(descriptor: int, start: int, stop: int) -> bool:
    """Whether a range is known to read as zeroes."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) >= stop
    except OSError as error:
        return error.errno == errno.ENXIO and os.lseek(descriptor, 0, os.SEEK_END) >= stop


@lru_cache(maxsize=8)
def _zero_digest(size: int, algorithm: str) -> bytes:
    digest = new_hash(algorithm)
    for start in range(0, size, PIECE):
        digest.update(_ZEROES[: size - start])
    result: bytes = digest.digest()
    return result
