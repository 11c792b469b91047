"""Memory that is used again and again is kept, instead of given back and fetched anew.

glibc returns the free end of its heap from a few hundred KiB on. Where blocks of 128 to 256 KiB come and go,
as the bytes of streams do, that means a page fault for every 4 KiB that pass, and more: a third of the time.
Source: mallopt(3). Once set, the limits do not move by themselves any more.
"""

from __future__ import annotations

import ctypes
import os

#: Bytes at the end of the heap that are kept, and from which on a block has a mapping of its own.
KEPT, LARGE = 8 << 20, 2 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: What an operator may have said instead.
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep() -> None:
    """Have the allocator of this process keep what it has; other libraries than glibc do as they like."""
    if any(name in os.environ for name in _VARIABLES):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, KEPT)
        mallopt(_MMAP_THRESHOLD, LARGE)
