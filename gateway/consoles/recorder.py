"""One recording, as the reactor sees it: bytes come with their time, and a thread writes them down.

A :class:`Recorder` holds a bounded amount: who feeds it has to stop when told so. When something goes wrong
the console comes to its end.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from gateway import errors
from gateway.consoles.recording_file import LimitReached, Piece, RecordingFile

T = TypeVar("T")
#: Runs a blocking function elsewhere than on the reactor's thread.
InThread = Callable[..., Deferred[Any]]
#: Word for logs, metrics and the audit trail.
REASON = "recording"
#: Bytes that wait to be written before the console has to.
WINDOW = 1 << 20
#: What is written at once, although more may come soon.
SOON = WINDOW // 8
#: Seconds: what comes is written together, and is on the disk after so many.
DELAY, SYNC = 0.1, 3.0
#: Seconds: what comes within so many is one piece, and a piece costs so many bytes beside its own.
GRAIN, COST = 0.001, 128
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def nothing(*_: object) -> None:
    """Do nothing."""


def refusal(text: str) -> errors.Unavailable:
    """Why a console that must be recorded is not to be had."""
    return errors.Unavailable(text, reason=REASON)


def told(error: BaseException | None) -> errors.Unavailable:
    """What the user may know of a recording that does not work."""
    if isinstance(error, LimitReached):
        return refusal("The recording of this console is as long as it may be")
    if isinstance(error, OSError) and error.errno in _FULL:
        return refusal("This console must be recorded, and there is no room for it")
    return refusal("This console must be recorded, and that does not work")


class _Lane:
    """Calls that run in a thread one after the other, also when nobody waits for them any more."""

    def __init__(self, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._last: Deferred[None] = succeed(None)

    def call(self, function: Callable[..., T], *args: object) -> Deferred[T]:
        """Run *function* when all calls before are over."""
        waiting: Deferred[T] = Deferred(nothing)
        before, last = self._last, Deferred[None]()
        self._last = last

        def over(result: T | Failure) -> None:
            last.callback(None)
            if not waiting.called:
                waiting.callback(result)

        def start(_: None) -> None:
            self._in_thread(function, *args).addBoth(over)

        before.addCallback(start)
        return waiting


class Recorder:
    """One recording.

    :param failed: called once with the reason, when the console must end because it cannot be recorded.
    :param flow: tells the console to wait, by False, or to go on.
    :param closed: called once when the file is closed.
    :ivar over: it takes nothing more.
    :ivar error: what went wrong.
    :ivar result: what becomes of the file: ``complete``, ``failed`` or ``discarded``.
    """

    def __init__(
        self,
        file: RecordingFile,
        in_thread: InThread,
        clock: IReactorTime,
        failed: Callable[[errors.GatewayError], object],
        flow: Callable[[bool], object] = nothing,
        closed: Callable[[Recorder], object] = nothing,
    ) -> None:
        self.file = file
        self.over = False
        self.error: BaseException | None = None
        self.result = "complete"
        self._lane = _Lane(in_thread)
        self._clock = clock
        self._failed = failed
        self._flow = flow
        self._closed = closed
        self._began = self._synced = clock.seconds()
        self._pieces: list[tuple[float, bytearray]] = []
        self._held = 0
        self._stopped = False
        self._writing = False
        self._dirty = False
        self._timer: IDelayedCall | None = None
        self._ended: Deferred[None] = Deferred()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._clock.seconds() - self._began

    def open(self) -> Deferred[None]:
        """Make the file."""
        return self._lane.call(self.file.open)

    def put(self, data: bytes) -> None:
        """Take what the console shows now."""
        if self.over or not data:
            return
        now = self.seconds
        if self._pieces and now - self._pieces[-1][0] < GRAIN:
            self._pieces[-1][1].extend(data)
        else:
            self._pieces.append((now, bytearray(data)))
            self._held += COST
        self._held += len(data)
        if self._held > WINDOW and not self._stopped:
            self._stopped = True
            self._flow(False)
        self._plan()

    def end(self) -> Deferred[None]:
        """Complete the file; fires when that is done."""
        if not self.over:
            self._stop()
            self._lane.call(self.file.end, self._take()).addBoth(self._over)
        return self._wait()

    def discard(self) -> Deferred[None]:
        """Take the file away: there was nothing to record."""
        if not self.over:
            self._stop()
            self.result = "discarded"
            self._lane.call(self.file.discard).addBoth(self._over)
        return self._wait()

    def _plan(self) -> None:
        """See to it that what is there is written soon, and on the disk a little later."""
        if self._writing or self.over:
            return
        if self._pieces:
            wait = 0.0 if self._held >= SOON else DELAY
        elif self._dirty:
            wait = max(0.0, self._synced + SYNC - self._clock.seconds())
        else:
            return
        if self._timer is None:
            self._timer = self._clock.callLater(wait, self._write)
        elif self._timer.getTime() > self._clock.seconds() + wait:
            self._timer.reset(wait)

    def _write(self) -> None:
        self._timer = None
        self._writing = True
        size = self._held
        sync = self._clock.seconds() >= self._synced + SYNC
        writing: Deferred[None] = self._lane.call(self.file.write, self._take(), sync)

        def done(_: None) -> None:
            self._writing = False
            if self.over:
                return
            self._dirty = not sync
            if sync:
                self._synced = self._clock.seconds()
            self._held -= size
            if self._stopped and self._held <= WINDOW // 2:
                self._stopped = False
                self._flow(True)
            self._plan()

        def wrong(failure: Failure) -> None:
            self._fail(failure.value)
            if not self.over:
                self._failed(told(failure.value))
                self.end()

        writing.addCallbacks(done, wrong)

    def _take(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return [(seconds, bytes(data)) for seconds, data in pieces]

    def _stop(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self, result: object) -> None:
        if isinstance(result, Failure):
            self._fail(result.value)
        self._closed(self)
        self._ended.callback(None)

    def _fail(self, error: BaseException | None) -> None:
        self.error, self.result = self.error or error, "failed"

    def _wait(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._ended.addCallback(lambda _: waiting.callback(None))
        return waiting
