"""An open file as the reactor sees it: calls that run in a thread one after the other, and a clean end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from gateway import errors
from gateway.images import file_io

T = TypeVar("T")
#: Runs a blocking function elsewhere than on the reactor's thread.
InThread = Callable[..., Deferred[Any]]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OpenFile:
    """An open file, used by one thread at a time.

    A call that nobody waits for any more still ends before the descriptor is closed: its number may
    belong to another file in the next moment.

    :ivar size: bytes that may be seen.
    """

    def __init__(self, in_thread: InThread, descriptor: int, size: int) -> None:
        self.size = size
        self._in_thread = in_thread
        self._descriptor = descriptor
        self._last: Deferred[Any] = succeed(None)
        self._closed = False

    def call(self, function: Callable[..., T], *args: object) -> Deferred[T]:
        """Run *function* with the descriptor and *args* in a thread; the call before has to be over.

        :raises gateway.errors.UpstreamFailed: (by the result) the file cannot be used.
        """
        running: Deferred[T] = self._in_thread(function, self._descriptor, *args)
        self._last = Deferred()
        last = self._last

        def over(result: Any) -> Any:
            last.callback(None)
            return result

        return _shielded(running.addBoth(over))

    def close(self) -> None:
        """Close it, once and after the last call."""
        if not self._closed:
            self._closed = True
            self._last.addCallback(lambda _: self._in_thread(os.close, self._descriptor))

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_in_thread(in_thread: InThread, path: Path, flags: int, limit: int | None) -> Deferred[OpenFile]:
    """Open a file that was judged before, see :func:`gateway.images.file_io.open_file`.

    A cancelled open leaves nothing open.

    :param limit: bytes that may be seen of it, None for all.
    """

    def opened(result: tuple[int, int]) -> OpenFile:
        descriptor, size = result
        return OpenFile(in_thread, descriptor, size if limit is None else min(size, limit))

    opening: Deferred[tuple[int, int]] = in_thread(file_io.open_file, path, flags)
    return _shielded(opening, lambda it: os.close(it[0])).addCallback(opened)


def _shielded(running: Deferred[T], unwanted: Callable[[T], object] = lambda _: None) -> Deferred[T]:
    """Return what may be cancelled without touching *running*, which a thread works on.

    :param unwanted: gets a result that nobody waits for any more.
    """
    waiting: Deferred[T] = Deferred(lambda _: None)

    def pass_on(result: T) -> None:
        if waiting.called:
            unwanted(result)
        else:
            waiting.callback(result)

    def pass_failure(failure: Failure) -> None:
        if not waiting.called:
            waiting.errback(_told(failure))

    running.addCallbacks(pass_on, pass_failure)
    return waiting


def _told(failure: Failure) -> Failure:
    """Say what a client may know of a file that cannot be used."""
    error = failure.value
    if not isinstance(error, OSError):
        return failure
    text = f"The image cannot be used: {error.strerror or 'I/O error'}"
    return Failure(errors.UpstreamFailed(text, reason="space" if error.errno in _FULL else "file"))
