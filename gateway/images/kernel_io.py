"""Large pieces of files past the page cache without a thread: the kernel moves them, and says when it has.

To hand a piece to a thread and back costs more than to move it. But only what cannot make the reactor wait
goes this way: what the kernel would have to wait for, such as space that is not allocated yet, pages that
others have in its cache, or a file system that knows no other way, it refuses at once, and threads have it.
So it is with anything that does not come out right: they try again, and find out what is wrong.

Source: io_setup(2), io_submit(2), io_getevents(2); RWF_NOWAIT of preadv2(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_GETFL, F_SETFL, fcntl
from itertools import count
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.images import direct_io
from gateway.images.direct_io import PAGE
from gateway.images.open_file import InThread

#: Pieces that are moved at once; the rest go to threads.
_MOST = 64
#: Numbers of io_setup, io_destroy, io_submit and io_getevents, which the C library has no names for.
_NUMBERS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
#: Source: Linux, uapi/linux/aio_abi.h and uapi/linux/fs.h.
_PREAD, _PWRITE, _FLAG_RESFD, _RWF_NOWAIT = 0, 1, 1, 8
_OPCODES: dict[Callable[..., Any], int] = {direct_io.read_into: _PREAD, direct_io.write: _PWRITE}

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class _Iocb(ctypes.Structure):
    """``struct iocb`` of a machine with the small end first."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("reqprio", ctypes.c_int16),
        ("fildes", ctypes.c_uint32),
        ("buf", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """``struct io_event``."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("obj", ctypes.c_uint64),
        ("res", ctypes.c_int64),
        ("res2", ctypes.c_int64),
    )


@frozen
class _Piece:
    """One that is on its way.

    :ivar lent: keeps the memory where it is.
    """

    moved: Deferred[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    lent: object


@implementer(IReadDescriptor)
class Elsewhere:
    """Runs a blocking function elsewhere than on the reactor's thread, as ``InThread``.

    Those of :mod:`gateway.images.direct_io` are left to the kernel, where that is possible.

    :param in_thread: for everything else, and for all that is asked before :meth:`start`.
    """

    def __init__(self, reactor: Any, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._reactor = reactor
        self._context = ctypes.c_ulong(0)
        self._told = -1
        self._event = _Event()
        self._numbers = count()
        self._moving: dict[int, _Piece] = {}

    def start(self) -> None:
        """Begin, unless this system knows no such thing, or allows none of it.

        Not before the process has become what it will be: a fork has no part in this.
        """
        numbers = _NUMBERS.get(platform.machine())
        if numbers is not None:
            setup, self._destroy, self._submit, self._getevents = map(ctypes.c_long, numbers)
            with suppress(OSError):
                _call(setup, ctypes.c_int(_MOST), ctypes.byref(self._context))
                self._told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
                self._reactor.addReader(self)

    def __call__(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        opcode = _OPCODES.get(function)
        if opcode is not None:
            descriptor, data, offset = args
            # What is not whole pages is for others to take apart.
            if not (offset % PAGE or len(data) % PAGE) and self._told >= 0 and len(self._moving) < _MOST:
                with suppress(OSError):
                    return self._begin(opcode, function, descriptor, data, offset)
        return self._in_thread(function, *args)

    def _begin(
        self, opcode: int, function: Callable[..., Any], descriptor: int, data: memoryview, offset: int
    ) -> Deferred[Any]:
        """:raises OSError: it has to be done in another way."""
        number, lent = next(self._numbers), ctypes.c_char.from_buffer(data)
        block = _Iocb(
            data=number,
            rw_flags=_RWF_NOWAIT,
            opcode=opcode,
            fildes=descriptor,
            buf=ctypes.addressof(lent),
            nbytes=len(data),
            offset=offset,
            flags=_FLAG_RESFD,
            resfd=self._told,
        )
        blocks = (ctypes.POINTER(_Iocb) * 1)(ctypes.pointer(block))
        flags = fcntl(descriptor, F_GETFL)
        # Without it the kernel would do all the work before it returns.
        fcntl(descriptor, F_SETFL, flags | os.O_DIRECT)
        try:
            _call(self._submit, self._context, ctypes.c_long(1), blocks)
        finally:
            fcntl(descriptor, F_SETFL, flags)
        moved: Deferred[Any] = Deferred()
        self._moving[number] = _Piece(moved, function, (descriptor, data, offset), lent)
        return moved

    def doRead(self) -> None:
        """Take note of one piece that the kernel has moved: what follows from it may take a while."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._told)
        self._take_note(0)

    def _take_note(self, least: int) -> None:
        """:param least: wait until as many have been moved."""
        event = self._event
        if _call(
            self._getevents, self._context, ctypes.c_long(least), ctypes.c_long(1), ctypes.byref(event), None
        ):
            piece = self._moving.pop(event.data)
            if event.res == len(piece.args[1]):
                piece.moved.callback(event.res if piece.function is direct_io.read_into else None)
            else:
                self._in_thread(piece.function, *piece.args).chainDeferred(piece.moved)

    def fileno(self) -> int:
        return self._told

    def logPrefix(self) -> str:
        return "files"

    def connectionLost(self, reason: Failure) -> None:
        """A reactor that forgets its readers has stopped."""

    def stop(self) -> None:
        """Wait for what the kernel still moves, and end."""
        if self._told >= 0:
            self._reactor.removeReader(self)
            told, self._told = self._told, -1
            while self._moving:
                self._take_note(1)
            _call(self._destroy, self._context)
            os.close(told)


def _call(*args: object) -> int:
    """:raises OSError: the kernel refuses."""
    result: int = _syscall(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
