"""Large transfers of a file past the page cache: half the work, and what others have in it stays there.

Where a file system cannot do this, or a device has larger blocks than :data:`PAGE`, everything goes the
ordinary way. Source: open(2), ``O_DIRECT``; ovirt-imageio 2.5, file backend.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import addressof, c_char
from fcntl import F_GETFL, F_SETFL, fcntl
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap

from gateway.images import file_io

#: Bytes to whose multiples places in the file, in memory, and lengths must be.
PAGE = 4096
#: Bytes of a transfer that is worth it.
LARGE = 4 * 1024 * 1024
#: Bytes of a huge page on most machines.
_HUGE = 2 * 1024 * 1024
#: What is said where it cannot be done.
_UNABLE = (errno.EINVAL, errno.EOPNOTSUPP)


def new_buffer(size: int) -> memoryview:
    """Return *size* bytes that begin where a page does, in huge pages where that makes sense.

    They save the kernel half its work, which goes by pages. Source: madvise(2), MADV_HUGEPAGE.
    """
    if size < _HUGE:
        return memoryview(mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS))
    area = mmap(-1, size + _HUGE, MAP_PRIVATE | MAP_ANONYMOUS)
    start = -addressof(c_char.from_buffer(area)) % _HUGE
    with suppress(OSError):
        # Some kernels have none.
        area.madvise(MADV_HUGEPAGE, start, size - size % _HUGE)
    return memoryview(area)[start : start + size]


def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """As :func:`gateway.images.file_io.read_into`.

    :param buffer: of :func:`new_buffer`; its length and *offset* are multiples of :data:`PAGE`.
    """
    with _past_cache(descriptor):
        return file_io.read_into(descriptor, buffer, offset)
    return file_io.read_into(descriptor, buffer, offset)  # type: ignore[unreachable]  # the block may be left


def write(descriptor: int, data: memoryview, offset: int) -> None:
    """As :func:`gateway.images.file_io.write`; what is not whole pages goes the ordinary way.

    :param data: the beginning of a :func:`new_buffer`.
    """
    whole = len(data) - len(data) % PAGE if offset % PAGE == 0 else 0
    with _past_cache(descriptor):
        file_io.write(descriptor, data[:whole], offset)
        data, offset = data[whole:], offset + whole
    file_io.write(descriptor, data, offset)


@contextmanager
def _past_cache(descriptor: int) -> Iterator[None]:
    """Have the kernel go past its cache; leave the block early where it cannot."""
    flags = fcntl(descriptor, F_GETFL)
    with suppress(OSError):
        fcntl(descriptor, F_SETFL, flags | os.O_DIRECT)
    try:
        yield
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
    finally:
        fcntl(descriptor, F_SETFL, flags)
