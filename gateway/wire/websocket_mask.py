"""Undoing the mask that a browser puts on its frames. Source: RFC 6455, section 5.3.

autobahn brings a compiled masker, which needs half a microsecond for a kilobyte; without it, bytes are
translated, every fourth with one table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

try:
    import _nvx_xormasker as nvx
except ImportError:
    nvx = None

#: Called with the four bytes of a key, where to begin, and how many bytes to unmask.
Unmask = Callable[[bytes, int, int], None]


@cache
def _table(key: int) -> bytes:
    return bytes(byte ^ key for byte in range(256))


def portable(room: bytearray) -> Unmask:
    """What unmasks parts of *room* in their place, in Python alone."""

    def unmask(key: bytes, start: int, size: int) -> None:
        for offset, byte in enumerate(key[:size], start):
            part = slice(offset, start + size, 4)
            room[part] = room[part].translate(_table(byte))

    return unmask


def native(room: bytearray) -> Unmask:
    """What unmasks parts of *room* in their place, by autobahn's compiled masker."""
    new, process, free = nvx.lib.nvx_xormask_new, nvx.lib.nvx_xormask_process, nvx.lib.nvx_xormask_free
    place: Any = nvx.ffi.from_buffer("uint8_t[]", room)

    def unmask(key: bytes, start: int, size: int) -> None:
        masker = new(key)
        process(masker, place + start, size)
        free(masker)

    return unmask


#: The faster one of those that work here.
unmasker: Callable[[bytearray], Unmask] = portable if nvx is None else native
