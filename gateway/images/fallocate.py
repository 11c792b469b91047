"""fallocate(2), of which the standard library has only the POSIX part.

It may take long: call it in a thread.
"""

from __future__ import annotations

import ctypes
import errno
import os

#: Source: Linux, uapi/linux/falloc.h.
KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

#: What a file system, or an old kernel with a block device, says of a mode that it does not know; EINVAL
#: is what a block device says of a range that does not begin and end with a block.
_UNABLE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL)

_libc = ctypes.CDLL(None, use_errno=True)
# glibc has a name of its own for 64-bit offsets, musl has no other offsets.
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> bool:
    """Change the space of a range of *length* bytes, more than 0.

    :return: whether the file can do that at all.
    :raises OSError: it can, and failed.
    """
    while _fallocate(descriptor, mode, offset, length):
        number = ctypes.get_errno()
        if number in _UNABLE:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
