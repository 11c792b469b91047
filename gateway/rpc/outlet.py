"""What waits to be sent on one connection: bounded by those who ask whether there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from gateway.core.batch import BATCH

#: Bytes that are written at once, and that may wait before it counts as full.
PIECE = 128 * 1024
#: Bytes that wait for the end of a batch: with more of them the peer had better begin its part.
_LITTLE = 8192
#: Seconds likewise.
_MOMENT = 0.001


@implementer(IPushProducer)
class Outlet:
    """Hands bytes to a transport in pieces, as that takes them.

    :param emptied: called when the transport has taken all it had, before anything else is done about it.
    :param stuck: called when it took nothing for *patience* seconds.
    """

    def __init__(
        self,
        transport: Any,
        clock: IReactorTime,
        patience: float,
        emptied: Callable[[], object],
        stuck: Callable[[], object],
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._patience = patience
        self._emptied = emptied
        self._stuck = stuck
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._since = 0.0
        self._full = self._ending = self._over = self._soon = False
        self._timer: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []
        transport.registerProducer(self, True)

    @property
    def queued(self) -> int:
        """Bytes that the transport did not get yet."""
        return self._queued

    def room(self) -> bool:
        """Whether something may be written that can wait."""
        return not (self._full or self._ending or self._over) and self._queued <= PIECE

    def drained(self) -> Deferred[None]:
        """Fires when there is :meth:`room`; is cancelled when there never will be."""
        if self.room():
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._forget)
        if self._ending or self._over:
            waiting.cancel()
        else:
            self._waiting.append(waiting)
        return waiting

    def write(self, data: bytes) -> None:
        """Send *data* after all that waits; in a batch what is little leaves with the rest of it."""
        self._queued += len(data)
        if len(data) > PIECE:
            self._queue += (data[at : at + PIECE] for at in range(0, len(data), PIECE))
        else:
            self._queue.append(data)
        if not BATCH.open or self._queued > _LITTLE:
            self.flush()
        elif not self._soon:
            self._soon, self._since = True, self._clock.seconds()
            BATCH.later(self._together)
        elif self._clock.seconds() - self._since > _MOMENT:
            self._since = self._clock.seconds()
            self.flush()

    def _together(self) -> None:
        self._soon = False
        self.flush()

    def flush(self) -> None:
        """Hand over what waits, until the transport has enough."""
        BATCH.settle()
        queue = self._queue
        while queue and not self._full and not self._over:
            pieces = [queue.popleft()]
            size = len(pieces[0])
            while queue and size + len(queue[0]) <= PIECE:
                size += len(queue[0])
                pieces.append(queue.popleft())
            self._queued -= size
            self._transport.write(b"".join(pieces) if len(pieces) > 1 else pieces[0])
        if self._ending and not queue and not self._over:
            self._over = True
            # With a producer the transport would wait for the end of that first.
            self._transport.unregisterProducer()
            self._transport.loseConnection()

    def end(self) -> None:
        """Hang up once all is sent."""
        self._ending = True
        self._drop()
        self.flush()

    def stop(self) -> None:
        """The connection is gone."""
        self._over = True
        self._queue.clear()
        self._queued = 0
        self._time(None)
        self._drop()

    # Of the transport's.

    def pauseProducing(self) -> None:
        self._full = True
        self._time(self._patience)

    def resumeProducing(self) -> None:
        self._full = False
        self._time(None)
        self.flush()
        if self.room():
            waiting, self._waiting = self._waiting, []
            for it in waiting:
                it.callback(None)
        self._emptied()

    def stopProducing(self) -> None:
        pass

    def _time(self, delay: float | None) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        if delay is not None:
            self._timer = self._clock.callLater(delay, self._stuck)

    def _drop(self) -> None:
        waiting, self._waiting = self._waiting, []
        for it in waiting:
            it.cancel()

    def _forget(self, waiting: Deferred[None]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
