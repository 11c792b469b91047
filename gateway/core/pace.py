"""What one HTTP connection may cost, when it is late, and how to tell that its peer takes nothing."""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

#: Pipelined bytes kept while a request is in work, and what is read away of a body that nobody wants;
#: a peer that leaves is noticed up to here.
READ_AHEAD = 16 * 1024


@frozen
class HttpLimits:
    """What one connection may cost: bytes, counts and seconds."""

    max_request_line: int = 8 * 1024
    max_head: int = 16 * 1024
    max_fields: int = 100
    max_body_control: int = 64 * 1024
    header_timeout: float = 10.0
    keepalive_timeout: float = 60.0
    body_idle_timeout: float = 60.0
    body_rate: int = 256
    write_idle_timeout: float = 60.0
    discard_bytes: int = 16 * 1024 * 1024
    discard_time: float = 5.0


class Deadline:
    """One moment that is set time and again, and what is called when it has come.

    A timer that fires before the moment is set again, not moved: that is cheaper.
    """

    def __init__(self, clock: IReactorTime, late: Callable[[], None]) -> None:
        self._clock = clock
        self._late: Callable[[], None] | None = late
        self._moment = 0.0
        self._timer: IDelayedCall | None = None

    def set(self, seconds: float) -> None:
        """Let it be *seconds* from now."""
        if self._late is None:
            return
        self._moment = self._clock.seconds() + seconds
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= self._moment:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, self._fire)

    def close(self) -> None:
        """Let there be none ever again; who would have been called is forgotten, and freed at once."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._late = None

    def _fire(self) -> None:
        self._timer = None
        left = self._moment - self._clock.seconds()
        if left > 0.001:
            self.set(left)
        elif self._late is not None:
            self._late()


@implementer(IPushProducer)
class Gate:
    """Stands between the transport and the producer of an answer, and knows who waits."""

    def __init__(self, producer: IPushProducer, streaming: bool) -> None:
        self._producer = producer
        self._streaming = streaming
        # A pull producer is asked as soon as there is room: it always waits.
        self.blocked = not streaming

    def pauseProducing(self) -> None:
        self.blocked = True
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self.blocked = not self._streaming
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        self._producer.stopProducing()


def unsent(wire: Any) -> int:
    """Bytes the kernel holds that the peer has not acknowledged; 0 when it cannot be told."""
    lowest = wire
    while getattr(lowest, "transport", None) is not None:
        lowest = lowest.transport
    if not hasattr(lowest, "fileno") or lowest.fileno() < 0:
        return 0
    # Linux: TIOCOUTQ on a socket is SIOCOUTQ, see tcp(7).
    raw = fcntl.ioctl(lowest.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", raw)[0])
